"""``discover``: from a store to directions and the rows at their ends, in a run folder or in memory."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from skillaxes import memory
from skillaxes.checkpointing import Checkpoint
from skillaxes.cluster import preemption
from skillaxes.cluster.world import ALONE, World
from skillaxes.errors import StoppedEarly
from skillaxes.job import Job, about, open_stream, opening_words, prepare, run_folder
from skillaxes.pca.projections import ProjectionStore
from skillaxes.planning import Plan, scratch_folder
from skillaxes.progress import SILENT, Progress
from skillaxes.results import directions_of, findings, ranked, spent, write
from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.atomic import remove
from skillaxes.run_folder.contents import Discovery, load
from skillaxes.run_folder.formats import CHECKPOINT
from skillaxes.shortage import Solver, announced, within_memory
from skillaxes.solve import Solved, solve
from skillaxes.stage_log import StageLog
from skillaxes.stages import Stages
from skillaxes.store import Store
from skillaxes.traffic import STATED, Rates


def discover(
    store: Store | str | Path,
    run_dir: str | Path | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
    world: World = ALONE,
    **options: Any,
) -> Discovery:
    """Find the principal directions of a store and the rows at both ends of each.

    Parameters
    ----------
    store : a store or its path
    run_dir : folder for the results; None keeps them in memory
    overwrite : replace what another job left in ``run_dir``; it is taken away before the first read
    progress : where remarks and progress go
    world : the processes that share the job; alone by default
    **options : the fields of :class:`skillaxes.config.DiscoverConfig`

    Raises
    ------
    UsageError, StoreError, BadRowsError, RunFolderError, DeviceError : see :mod:`skillaxes.errors`
    StoppedEarly : the process was told to stop (see :mod:`skillaxes.cluster.preemption`); the same call goes on
    """
    return carry_out(prepare(store, options, world=world), run_dir, solve, {}, overwrite, progress)


def plan(store: Store | str | Path, *, world_size: int = 1, rates: Rates = STATED, **options: Any) -> Plan:
    """What ``discover`` would do with these options, without doing it.

    Parameters
    ----------
    world_size : processes that would share it; the plan is that of the first one, on a host of its own
    rates : what time and traffic of several processes are predicted from
    """
    return prepare(store, options, world=World(0, world_size), rates=rates).plan


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
        before = job.world.share(before)
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
    ours = status == manifests.STOPPED and stopped.get("run_id") == preemption.run_id()
    if ours and any(world.gather(preemption.restarted())):
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
            job.world.settle("the stop")  # a crashed process makes it a failed job, not a stopped one
            stopped = {**(checkpoint.stopped_at or {}), "run_id": preemption.run_id()}
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
    job.world.together("the end of the job")
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
