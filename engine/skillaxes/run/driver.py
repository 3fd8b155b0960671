"""Run a prepared job in its run folder: claim, resume, solve, rank and write; stop, fail, retry with smaller panels."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from skillaxes import memory
from skillaxes.cluster import signals
from skillaxes.cluster.world import ALONE, World
from skillaxes.errors import DeviceMemoryError, InputError, StoppedEarly, StoreError, UsageError
from skillaxes.files import remove
from skillaxes.pca.base import Reduction, Solution, SolverState, compact
from skillaxes.pca.projections import ProjectionStore
from skillaxes.pca.solvers import UNSCALED
from skillaxes.progress import Progress
from skillaxes.run.checkpoint import Checkpoint
from skillaxes.run.findings import directions_of, effort, findings, manifest_header, ranked, write
from skillaxes.run.job import Job
from skillaxes.run.passes import Context, find_scale, read_sample, run_read, start_from
from skillaxes.run.plan import GDS_TAKEN, Plan, scratch_folder
from skillaxes.run.stage_log import StageLog
from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.checkpoint import holds_state
from skillaxes.run_folder.contents import Discovery, load
from skillaxes.run_folder.schema import CHECKPOINT, Diagnostic, Manifest
from skillaxes.stream.panels import PanelStream

_CACHED = 10.0  # seconds for which a network file system may cache that a file does not exist


def run_job(job: Job, run_dir: str | Path | None, overwrite: bool, progress: Progress) -> Discovery:
    """Run a prepared job in its run folder, resume it, or load the result of the same job.

    Parameters
    ----------
    run_dir : the run folder; None for a result in memory
    overwrite : whether results of another job there are removed

    Raises
    ------
    SkillaxesError : see :mod:`skillaxes.errors`
    """
    folder = None if run_dir is None else Path(run_dir)
    is_first = job.world.rank == 0
    before: Manifest | None = None
    if folder is not None:
        config = {**job.config.result_changing(), **job.identity}
        if is_first:
            before = manifests.claim(folder, job.command, config, job.store.fingerprint(), overwrite)
        before = job.world.broadcast_object(before)
        if before is not None and before.get("status") == manifests.DONE:
            if is_first:
                remove(folder / CHECKPOINT)
            progress.note(f"{folder}: done already, by the same job on the same store")
            return load(folder)
        _refuse_restart(folder, before, job.world)
    with run_folder(folder, job.world), memory.freed_is_kept():
        found = _run(job, folder, before or {}, progress)
    return replace(found, run_dir=folder)


@contextlib.contextmanager
def run_folder(folder: Path | None, world: World = ALONE) -> Iterator[Path | None]:
    """Make the run folder of a job, and remove its files again where the input cannot be used.

    When a process of several fails, the lowest surviving one writes the reason to the manifest.

    Raises
    ------
    UsageError : several processes without a folder, or with one on a disk of one machine
    """
    if folder is None:
        if world.world_size > 1:
            raise UsageError(f"{world.world_size} processes need a run folder that all of them see: give run_dir")
        yield None
        return
    created = world.broadcast_object(not folder.exists())
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    if world.world_size > 1:
        _check_shared(folder, world)

    def clear() -> None:
        manifests.clear(folder)
        if created:
            shutil.rmtree(folder, ignore_errors=True)

    def end(code: int, message: str) -> None:
        if code == InputError.exit_code and not holds_state(folder):
            clear()
        else:
            manifests.mark_failed(folder, message)

    world.on_peer_failure(end)
    try:
        yield folder
    except InputError as error:
        # A store that fails after hours may be repaired or staged again, so its checkpoint stays.
        if world.rank == 0 and not (isinstance(error, StoreError) and holds_state(folder)):
            clear()
        raise


def solve(context: Context) -> Solution:
    """Run the solver of a job over its stream, from the state of its checkpoint on.

    Raises
    ------
    BadRowsError, StoreError : rows that cannot be used
    StoppedEarly : a stop was requested
    """
    job, stream, log, checkpoint = context.job, context.stream, context.log, context.checkpoint
    problem, solver = context.problem, job.solver
    scale = checkpoint.results.get("scale", solver.scale)
    scale = None if scale is None else scale.to(stream.device)
    if "state" in checkpoint.results:
        state = solver.load(checkpoint.results["state"], problem, context.scope(scale))
        checkpoint.restore_rows(state.row_tables())
        checkpoint.results = {}
    else:
        sample = log.run("sample", stream, partial(read_sample, context))
        if problem.options.scale != UNSCALED and scale is None:
            scale = log.run("column statistics", stream, partial(find_scale, context, sample))
            checkpoint.finish(partial(_found, scale))
        wanted = solver.start_directions(problem)
        start = log.run("warm start", stream, partial(start_from, context, sample, wanted, scale))
        job.world.broadcast_(start.shift)
        state = solver.init(problem, start, context.scope(scale))
        del sample, start  # the stream keeps the sampled chunks that a read can reuse
        checkpoint.finish(partial(_found, scale, state), state.row_tables(), read=False)
    read = solver.next_read(state)
    while read is not None:
        name = f"read {int(stream.reads) + 1}"
        stage = f"{name} ({read.title})" if read.title else name
        state = log.run(stage, stream, partial(_finish_read, context, stage, state, read))
        log.note(**solver.record(state, read))
        if remark := solver.remark(state):
            context.progress.note(f"{name}: {remark}")
        read = solver.next_read(state)
        checkpoint.finish(partial(_found, scale, state), state.row_tables(), last=read is None)
    return log.run("directions", stream, partial(solver.solution, state))


def retry_with_smaller_panels(
    context: Context, attempt: Callable[[Context], Solution]
) -> tuple[Solution, Plan, list[dict[str, Any]]]:
    """Solve, with half the rows a panel and half the resident rows each time the GPU runs out of memory.

    A further attempt begins anew, or after the last complete stage of the checkpoint.

    Returns
    -------
    solution : the solution
    plan : the plan of the attempt that succeeded
    shortages : one record for each time that memory ran out: rows of a panel and resident rows before and after, and
        the message of the GPU

    Raises
    ------
    DeviceMemoryError : the smallest panels are too large, or several processes share the job: the others are at another
        row of the read, and their panels would have to become smaller too
    """
    job, stream, shortages = context.job, context.stream, list[dict[str, Any]]()
    while True:
        plan = context.plan
        try:
            context.checkpoint.open(stream)
            return attempt(context), plan, shortages
        except torch.OutOfMemoryError as error:
            if plan.gpu is None:
                raise
            message = " ".join(str(error).split())
        if job.world.world_size > 1:
            raise DeviceMemoryError(
                f"{plan.device} ran out of memory with panels of {plan.panel_rows:,} rows and {plan.gpu.kept_rows:,} "
                f"rows kept there ({message}); {job.world.world_size} processes cannot begin anew with smaller ones: "
                "end what else uses the GPU and type the same command again, or add --device cpu"
            )
        row_bytes = stream.n_columns * stream.dtype.itemsize
        smaller = plan.halved(row_bytes)
        if smaller is None:
            raise DeviceMemoryError(
                f"{plan.device} has no room for panels of {plan.panel_rows} rows: {message}; end what else uses it, or "
                "type --device cpu"
            )
        assert smaller.gpu is not None
        shortages.append(
            {
                "panel_rows": plan.panel_rows,
                "kept_rows": plan.gpu.kept_rows,
                "next_panel_rows": smaller.panel_rows,
                "next_kept_rows": smaller.gpu.kept_rows,
                "said": message,
            }
        )
        context.progress.note(shortage_diagnostic(shortages[-1])["text"])
        context.log.begin_anew()
        context.projections.close()
        gc.collect()  # frees the tensors of the solver on the GPU
        stream.shrink(smaller.panel_rows, smaller.gpu.kept)
        context = replace(context, plan=smaller)


def shortage_diagnostic(shortage: dict[str, Any]) -> Diagnostic:
    """The diagnostic of a shortage of GPU memory."""
    text = (
        f"the GPU ran out of memory with panels of {shortage['panel_rows']:,} rows and {shortage['kept_rows']:,} rows "
        f"kept there; begun anew with panels of {shortage['next_panel_rows']:,} rows and "
        f"{shortage['next_kept_rows']:,} kept"
    )
    return {"kind": "gpu_memory", "text": text, "values": shortage}


def open_stream(job: Job) -> PanelStream:
    """The rows of this process as panels."""
    return PanelStream(
        job.store,
        panel_rows=job.plan.panel_rows,
        device=job.device.device,
        columns=job.columns,
        rows=job.plan.rows,
        cache_bytes=job.plan.memory.cache,
        resident_bytes=0 if job.plan.gpu is None else job.plan.gpu.kept,
        workers=job.plan.workers,
        direct=job.plan.gds == GDS_TAKEN,
    )


def summary_line(job: Job) -> str:
    """One line on a job that is about to begin: store, solver, device, read path and processes."""
    store, planned = job.store, job.plan
    shape = " x ".join(f"{extent:,}" for extent in store.shape)
    mine = planned.rows[1] - planned.rows[0]
    kept = "" if planned.gpu is None else f", {planned.gpu.kept_rows / mine:.0%} of them kept in its memory"
    shared = ""
    if planned.outlook is not None:
        sent = memory.show(planned.outlook["traffic_bytes"])
        shared = f"; shared by {planned.processes} processes, each hands {sent} a read to the others"
    return (
        f"{store.path}: {shape} {store.dtype}, {memory.show(store.nbytes)}; {planned.solver} on {planned.device} "
        f"({planned.device_reason}), rows through {planned.read_path}{kept}{shared}"
    )


def _run(job: Job, folder: Path | None, before: Manifest, progress: Progress) -> Discovery:
    """Run a job, or resume an earlier attempt, whose manifest is ``before``."""
    log = StageLog(world=job.world)
    manifest = manifest_header(job)
    resumptions = before.get("resumptions", 0)
    manifest["attempts"], manifest["resumptions"] = before.get("attempts", 0) + 1, resumptions

    def record(**more: Any) -> None:
        if folder is not None and job.world.rank == 0:
            manifests.write_manifest(folder, cast(Manifest, {**manifest, **more}))

    def attempt(context: Context) -> Solution:
        if checkpoint.resumed and manifest["resumptions"] == resumptions:
            manifest["resumptions"] += 1
            record(status=manifests.RUNNING)
        return solve(context)

    record(status=manifests.RUNNING)
    progress.note(summary_line(job))
    stream = open_stream(job)
    checkpoint = _checkpoint(job, folder, log, progress)
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoint.close)
        projections = ProjectionStore(stream.first_row, stream.n_rows, _spill_folder(job, stack))
        stack.callback(projections.close)
        context = Context(job, job.plan, stream, projections, checkpoint, log, progress)
        try:
            solution, plan, shortages = retry_with_smaller_panels(context, attempt)
            ranking, topk, selection = log.run("ranking", stream, lambda: ranked(job, solution, stream, folder))
        except StoppedEarly:
            job.world.barrier_after_stop("the stop")  # a crashed process makes it a failed job, not a stopped one
            stopped = {**(checkpoint.stopped_at or {}), "run_id": signals.run_id()}
            record(status=manifests.STOPPED, stopped=stopped, stages=log.stages, seconds=round(log.seconds, 3))
            raise
        except BaseException:
            record(status=manifests.FAILED, stages=log.stages)
            raise
    directions = directions_of(solution)
    seconds, rows = checkpoint.repeated
    found: Manifest = {
        "status": manifests.DONE,
        **effort(job, stream, log.stages, rows),
        **findings(job, solution, ranking, topk),
        "seconds": round(log.seconds + seconds, 3),
    }
    if rows or seconds:
        found["repeated"] = {"seconds": round(seconds, 3), "rows": rows}
    if (gpu := stream.on_device()) is not None:
        found["plan"], found["gpu"] = plan.as_dict(), {**gpu, "out_of_memory": shortages}
        found["diagnostics"] = [*found["diagnostics"], *map(shortage_diagnostic, shortages[-1:])]
    complete: Manifest = {**manifest, **found}
    if folder is not None and job.world.rank == 0:
        write(folder, directions, topk, selection, complete)
    job.world.barrier("the end of the job")
    checkpoint.remove()
    return Discovery(directions, topk, complete, None)


def _refuse_restart(folder: Path, before: Manifest | None, world: World) -> None:
    """Refuse a restart by torchrun of a job that was stopped: to torchrun it looks like a failed one.

    On several hosts only the first agent to notice counts a restart.

    Raises
    ------
    StoppedEarly : the job was stopped in this torchrun job
    """
    status, stopped = (before or {}).get("status"), (before or {}).get("stopped") or {}
    ours = status == manifests.STOPPED and stopped.get("run_id") == signals.run_id()
    if ours and any(world.all_gather_object(signals.restarted())):
        raise StoppedEarly(f"{folder}: this torchrun job was told to stop; the same command goes on from there later")


def _finish_read(context: Context, name: str, state: SolverState, read: Reduction) -> SolverState:
    return context.job.solver.finish_read(state, run_read(context, name, read))


def _found(scale: Tensor | None, state: SolverState | None = None) -> dict[str, Any]:
    """The results of all complete stages, as plain values for a checkpoint."""
    found: dict[str, Any] = {"scale": None if scale is None else compact(scale)}
    return found if state is None else found | {"state": state.state_dict()}


def _spill_folder(job: Job, stack: contextlib.ExitStack) -> Path | None:
    """A folder for projections on disk, removed when ``stack`` ends; None for projections in memory."""
    if not job.plan.memory.spilled:
        return None
    parent = scratch_folder(job.config)
    parent.mkdir(parents=True, exist_ok=True)
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skillaxes-", dir=parent)))


def _checkpoint(job: Job, folder: Path | None, log: StageLog, progress: Progress) -> Checkpoint:
    identity = {
        "command": job.command,
        "store": job.store.fingerprint(),
        "options": {**job.config.result_changing(), **job.identity},
        "solver": job.plan.solver,
        "block size": job.plan.block_size,
    }
    return Checkpoint(folder, identity, job.config.machine.checkpoint_every, job.world, log, progress)


def _check_shared(folder: Path, world: World) -> None:
    """Check that all processes see the same run folder.

    Raises
    ------
    UsageError : a process does not see it
    """
    token = folder / world.broadcast_object(f".{uuid.uuid4().hex}.seen")
    if world.rank == 0:
        token.touch()
    world.barrier("the run folder")
    seen = world.all_gather_object(_appears(token))
    if world.rank == 0:
        token.unlink(missing_ok=True)
    blind = [str(rank) for rank, found in enumerate(seen) if not found]
    if blind:
        raise UsageError(
            f"{folder} is not seen by process {', '.join(blind)}: with several processes the run folder must lie on a "
            "file system that all of them share"
        )


def _appears(path: Path) -> bool:
    """Whether a file is there, or appears before the cache of a network file system expires."""
    limit = time.monotonic() + _CACHED
    while not path.exists():
        if time.monotonic() > limit:
            return False
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            os.listdir(path.parent)
    return True
