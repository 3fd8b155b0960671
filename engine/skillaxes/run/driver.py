"""From a stream to directions and kept rows: the stages of a job, whichever solver runs."""

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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skillaxes import memory
from skillaxes.cluster import signals
from skillaxes.cluster.world import ALONE, World
from skillaxes.errors import DeviceMemoryError, InputError, StoppedEarly, StoreError, UsageError
from skillaxes.pca import krylov
from skillaxes.pca.base import Solved
from skillaxes.pca.projections import ProjectionStore
from skillaxes.pca.row_scores import kept_rows
from skillaxes.pca.saving import own
from skillaxes.pca.stability import split_half
from skillaxes.progress import Progress
from skillaxes.run.checkpoint import Checkpoint
from skillaxes.run.findings import about, directions_of, findings, ranked, spent, write
from skillaxes.run.job import Job
from skillaxes.run.passes import Stages
from skillaxes.run.plan import RANDOM_DIRECTIONS, Plan, scratch_folder, smaller
from skillaxes.run.stage_log import StageLog
from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.checkpoint import holds_state
from skillaxes.run_folder.contents import Discovery, load
from skillaxes.run_folder.files import remove
from skillaxes.run_folder.schema import CHECKPOINT
from skillaxes.stream.panels import PanelStream

if TYPE_CHECKING:
    pass


def solve(job: Stages) -> Solved:
    """Run the solver of the job's plan over its stream, from where the checkpoint is.

    Raises
    ------
    StoppedEarly : the job was told to stop
    """
    stream, config, plan, log, checkpoint = job.stream, job.config, job.plan, job.log, job.checkpoint
    scale = checkpoint.results.get("scale")
    scale = None if scale is None else scale.to(stream.device)
    start = job.start_found()
    if start is None:
        sample = log.run("sample", stream, job.sample)
        if config.scale != "none" and scale is None:
            scale = log.run("column statistics", stream, lambda: job.column_scale(sample))
            checkpoint.finish(partial(_scale_found, scale))
        if plan.solver == "krylov":
            n_directions = plan.block_size - krylov.UTILITY
            start = log.run("warm start", stream, lambda: job.warm_start(sample, n_directions, scale))
        else:
            shift = job.warm_start(sample, 0, scale).shift
            first = job.covariance if plan.solver == "covariance" else job.incremental
            start = log.run(f"read 1 ({plan.solver})", stream, lambda: first(shift, scale))
        job.world.broadcast_(start.shift)
        del sample  # what a read still needs of it, the stream holds
        job.after_start(start, scale, read=plan.solver != "krylov")
    state = job.krylov_at(start, scale)
    while not state.done:
        number = int(stream.reads) + 1
        state = log.run(f"read {number}", stream, partial(job.read, state, f"read {number}"))
        log.note(products=krylov.products_of_read(state, stream.n_rows))
        worst = float(krylov.relative_residuals(state).max())
        job.progress.note(f"read {number}: largest residual {worst:.1e} (tolerance {config.tolerance:.0e})")
        job.after_read(state, start, scale, last=state.done)
    return log.run("directions", stream, lambda: _finish(job, state, scale))


def _scale_found(scale: Tensor) -> dict[str, Tensor]:
    return {"scale": own(scale)}


def _finish(job: Stages, state: krylov.KrylovState, scale: Tensor | None) -> Solved:
    """Directions, stability and the rows for ranking, from what the reads left."""
    k, problem = job.config.components, job.problem
    result, weights = job.world.broadcast_object(krylov.finalize(state))
    stability = split_half(state.grams, state.moments.bad, weights, k, problem.seed, job.world)
    generator = torch.Generator().manual_seed(problem.seed + 1)
    mixing = torch.randn((weights.shape[1], RANDOM_DIRECTIONS), generator=generator, dtype=torch.float64)
    mixing /= torch.linalg.vector_norm(mixing, dim=0)
    combined = torch.cat([weights[:, :k], weights @ mixing], dim=1)
    kept = kept_rows(state, combined)
    bad = state.moments.first_row + np.flatnonzero(state.moments.bad)
    return Solved(result, stability, kept, scale, np.concatenate(job.world.all_gather_object(bad)))


Solver = Callable[[Stages], Solved]


def within_memory(
    job: Job,
    stream: PanelStream,
    solver: Solver,
    projections: ProjectionStore,
    log: StageLog,
    progress: Progress,
    checkpoint: Checkpoint,
) -> tuple[Solved, Plan, list[dict[str, Any]]]:
    """Run ``solver``; where the GPU runs out of memory, begin anew with half the rows a panel and half the rows kept,
    or go on from the last complete stage that is in the checkpoint.

    Returns
    -------
    solved : what the solver made
    plan : what it followed in the end
    shortages : one record for each time that memory ran out: the panels and kept rows that were too many, those that
        came next, and what the GPU said

    Raises
    ------
    DeviceMemoryError : the smallest panels were too large; or there are other processes, which are somewhere else in
        the read and whose panels would have to become smaller too
    """
    plan, shortages = job.plan, list[dict[str, Any]]()
    while True:
        try:
            checkpoint.open(stream)
            stages = Stages(job, stream, plan, projections, log, progress, checkpoint)
            return solver(stages), plan, shortages
        except torch.OutOfMemoryError as error:
            if plan.gpu is None:
                raise
            said = " ".join(str(error).split())
        if job.world.world_size > 1:
            raise DeviceMemoryError(
                f"{plan.device} ran out of memory with panels of {plan.panel_rows:,} rows and {plan.gpu.kept_rows:,} "
                f"rows kept there ({said}); {job.world.world_size} processes cannot begin anew with smaller ones: end "
                "what else uses the GPU and type the same command again, or add --device cpu"
            )
        row_bytes = stream.n_columns * stream.dtype.itemsize
        less = smaller(plan, row_bytes)
        if less is None:
            raise DeviceMemoryError(
                f"{plan.device} has no room for panels of {plan.panel_rows} rows: {said}; end what else uses it, or "
                "type --device cpu"
            )
        assert less.gpu is not None
        shortages.append(
            {
                "panel_rows": plan.panel_rows,
                "kept_rows": plan.gpu.kept_rows,
                "next_panel_rows": less.panel_rows,
                "next_kept_rows": less.gpu.kept_rows,
                "said": said,
            }
        )
        progress.note(announced(shortages[-1])["text"])
        log.begin_anew()
        projections.close()
        gc.collect()  # what the solver held on the GPU
        stream.shrink(less.panel_rows, less.gpu.kept)
        plan = less


def announced(shortage: dict[str, Any]) -> dict[str, Any]:
    """A shortage as a manifest announces it."""
    text = (
        f"the GPU ran out of memory with panels of {shortage['panel_rows']:,} rows and {shortage['kept_rows']:,} rows "
        f"kept there; begun anew with panels of {shortage['next_panel_rows']:,} rows and "
        f"{shortage['next_kept_rows']:,} kept"
    )
    return {"kind": "gpu_memory", "text": text, "values": shortage}


def carry_out(
    job: Job,
    run_dir: str | Path | None,
    solver: Solver,
    identity: dict[str, Any],
    overwrite: bool,
    progress: Progress,
) -> Discovery:
    """Run a prepared job in its run folder, go on with it, or return what the same job has left there.

    Parameters
    ----------
    solver : makes directions and kept rows out of the stream
    identity : what changes the result besides the options
    """
    folder = None if run_dir is None else Path(run_dir)
    leads = job.world.rank == 0
    before: dict[str, Any] | None = None
    if folder is not None:
        config = {**job.config.result_changing(), **identity}
        if leads:
            before = manifests.claim(folder, job.command, config, job.store.fingerprint(), overwrite)
        before = job.world.broadcast_object(before)
        if before is not None and before.get("status") == manifests.DONE:
            if leads:
                remove(folder / CHECKPOINT)
            progress.note(f"{folder}: done already, by the same job on the same store")
            return load(folder)
        _refuse_restart(folder, before, job.world)
    with run_folder(folder, job.world), memory.freed_is_kept():
        found = _run(job, folder, solver, identity, before, progress)
    return replace(found, run_dir=folder)


def _refuse_restart(folder: Path, before: dict[str, Any] | None, world: World) -> None:
    """A group that was told to stop looks like a failed one to torchrun, which starts it again.

    On several hosts only the agent that was first to see it counts a restart.
    """
    status, stopped = (before or {}).get("status"), (before or {}).get("stopped") or {}
    ours = status == manifests.STOPPED and stopped.get("run_id") == signals.run_id()
    if ours and any(world.all_gather_object(signals.restarted())):
        raise StoppedEarly(f"{folder}: this torchrun job was told to stop; the same command goes on from there later")


def _run(
    job: Job,
    folder: Path | None,
    solver: Solver,
    identity: dict[str, Any],
    before: dict[str, Any] | None,
    progress: Progress,
) -> Discovery:
    log = StageLog(world=job.world)
    manifest = about(job)
    manifest["config"] |= identity
    earlier = before or {}
    manifest |= {"attempts": earlier.get("attempts", 0) + 1, "resumptions": earlier.get("resumptions", 0)}

    def record(**more: Any) -> None:
        if folder is not None and job.world.rank == 0:
            manifests.write_manifest(folder, {**manifest, **more})

    record(status=manifests.RUNNING)
    progress.note(opening_words(job))
    stream = open_stream(job)
    checkpoint = _checkpoint(job, folder, identity, log, progress)
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoint.close)
        spill = None
        if job.plan.memory.spilled:
            parent = scratch_folder(job.config)
            parent.mkdir(parents=True, exist_ok=True)
            spill = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skillaxes-", dir=parent)))
        projections = ProjectionStore(stream.first_row, stream.n_rows, spill)
        stack.callback(projections.close)

        def begun(stages: Stages) -> Solved:
            if checkpoint.resumed and manifest["resumptions"] == earlier.get("resumptions", 0):
                manifest["resumptions"] += 1
                record(status=manifests.RUNNING)
            return solver(stages)

        try:
            solved, plan, shortages = within_memory(job, stream, begun, projections, log, progress, checkpoint)
            ranking, topk, selection = log.run("ranking", stream, lambda: ranked(job, solved, stream, folder))
        except StoppedEarly:
            job.world.barrier_after_stop("the stop")  # a crashed process makes it a failed job, not a stopped one
            stopped = {**(checkpoint.stopped_at or {}), "run_id": signals.run_id()}
            record(status=manifests.STOPPED, stopped=stopped, stages=log.stages, seconds=round(log.seconds, 3))
            raise
        except BaseException:
            record(status=manifests.FAILED, stages=log.stages)
            raise
    directions = directions_of(solved)
    seconds, rows = checkpoint.repeated
    manifest |= {
        "status": manifests.DONE,
        **spent(job, stream, log.stages, rows),
        **findings(job, solved, ranking, topk),
        "seconds": round(log.seconds + seconds, 3),
    }
    if rows or seconds:
        manifest["repeated"] = {"seconds": round(seconds, 3), "rows": rows}
    if (gpu := stream.on_device()) is not None:
        manifest |= {"plan": plan.as_dict(), "gpu": {**gpu, "out_of_memory": shortages}}
        manifest["announcements"] = [*manifest["announcements"], *map(announced, shortages[-1:])]
    if folder is not None and job.world.rank == 0:
        write(folder, directions, topk, selection, manifest)
    job.world.barrier("the end of the job")
    checkpoint.remove()
    return Discovery(directions, topk, manifest, None)


def _checkpoint(
    job: Job, folder: Path | None, identity: dict[str, Any], log: StageLog, progress: Progress
) -> Checkpoint:
    about_it = {
        "command": job.command,
        "store": job.store.fingerprint(),
        "options": {**job.config.result_changing(), **identity},
        "solver": job.plan.solver,
        "block size": job.plan.block_size,
    }
    return Checkpoint(folder, about_it, job.config.checkpoint_every, job.world, log, progress)


_REMEMBERED = 10.0  # seconds for which a network file system may answer that a new file is not there


def _check_shared(folder: Path, world: World) -> None:
    """Several processes must see one run folder."""
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
    """Whether a file is there, or comes within the time that a network file system remembers that it was not."""
    limit = time.monotonic() + _REMEMBERED
    while not path.exists():
        if time.monotonic() > limit:
            return False
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            os.listdir(path.parent)
    return True


@contextlib.contextmanager
def run_folder(folder: Path | None, world: World = ALONE) -> Iterator[Path | None]:
    """The run folder while a job writes to it; what could not be used leaves nothing behind.

    Of several processes the lowest surviving one puts on record why all had to end.

    Raises
    ------
    UsageError : several processes without a folder, or with one that lies on a disk of one machine
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

    def lost(code: int, message: str) -> None:
        if code == InputError.exit_code and not holds_state(folder):
            clear()
        else:
            manifests.mark_failed(folder, message)

    world.on_peer_failure(lost)
    try:
        yield folder
    except InputError as error:
        # A store that fails after hours is mended, or staged again: what there is to go on from stays.
        if world.rank == 0 and not (isinstance(error, StoreError) and holds_state(folder)):
            clear()
        raise


def open_stream(job: Job) -> PanelStream:
    """The job's rows as panels."""
    return PanelStream(
        job.store,
        panel_rows=job.plan.panel_rows,
        device=job.device.device,
        columns=job.columns,
        rows=job.plan.rows,
        cache_bytes=job.plan.memory.cache,
        keep_bytes=0 if job.plan.gpu is None else job.plan.gpu.kept,
        workers=job.plan.workers,
        direct=job.plan.gds == "taken",
    )


def opening_words(job: Job) -> str:
    """One line on what is about to happen."""
    store, planned = job.store, job.plan
    shape = " x ".join(f"{extent:,}" for extent in store.shape)
    mine = planned.rows[1] - planned.rows[0]
    kept = "" if planned.gpu is None else f", {planned.gpu.kept_rows / mine:.0%} of them kept in its memory"
    shared = ""
    if planned.outlook is not None:
        handed = memory.show(planned.outlook["traffic_bytes"])
        shared = f"; shared by {planned.processes} processes, each hands {handed} a read to the others"
    return (
        f"{store.path}: {shape} {store.dtype}, {memory.show(store.nbytes)}; {planned.solver} on {planned.device} "
        f"({planned.device_reason}), rows through {planned.road}{kept}{shared}"
    )
