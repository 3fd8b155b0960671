"""``discover``: from a store to directions and the rows at their ends, in a run folder or in memory."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillaxes import memory
from skillaxes.cluster.world import ALONE, World
from skillaxes.job import Job, about, open_stream, opening_words, prepare, run_folder
from skillaxes.pca.projections import ProjectionStore
from skillaxes.planning import Plan, scratch_folder
from skillaxes.progress import SILENT, Progress
from skillaxes.results import directions_of, findings, ranked, write
from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.directions import Directions, read_directions
from skillaxes.run_folder.formats import TOPK
from skillaxes.run_folder.tables import read_table
from skillaxes.shortage import Solver, announced, within_memory
from skillaxes.solve import Solved, StageLog, solve
from skillaxes.store import Store
from skillaxes.stream.panels import PanelStream

if TYPE_CHECKING:
    import pyarrow as pa

@dataclass(frozen=True)
class Discovery:
    """What ``discover`` found.

    Attributes
    ----------
    directions : components (k, d), mean (d,) and their numbers, float32
    topk : the rows at both ends of every direction, as ``topk.parquet`` holds them
    manifest : what was done and what has to be announced
    run_dir : where it was written; None if nowhere
    """

    directions: Directions
    topk: pa.Table
    manifest: dict[str, Any]
    run_dir: Path | None


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
    """
    job = prepare(store, options, world=world)

    def solver(stream: PanelStream, plan: Plan, projections: ProjectionStore, log: StageLog) -> Solved:
        return solve(stream, job.config, plan, job.layers, projections, log, progress, job.world)

    return carry_out(job, run_dir, solver, {}, overwrite, progress)


def plan(store: Store | str | Path, **options: Any) -> Plan:
    """What ``discover`` would do with these options, without doing it."""
    return prepare(store, options).plan


def load(run_dir: str | Path) -> Discovery:
    """What a run folder holds.

    Raises
    ------
    RunFolderError : it is no run folder, or not complete
    """
    folder = Path(run_dir)
    manifest = manifests.read_manifest(folder)
    return Discovery(read_directions(folder), read_table(folder, TOPK), manifest, folder)


def carry_out(
    job: Job,
    run_dir: str | Path | None,
    solver: Solver,
    identity: dict[str, Any],
    overwrite: bool,
    progress: Progress,
) -> Discovery:
    """Run a prepared job in its run folder, or return what the same job has left there.

    Parameters
    ----------
    solver : makes directions and kept rows out of the stream
    identity : what changes the result besides the options
    """
    folder = None if run_dir is None else Path(run_dir)
    if folder is not None:
        config = {**job.config.result_changing(), **identity}
        before = manifests.claim(folder, job.command, config, job.store.fingerprint(), overwrite)
        if before is not None and before.get("status") == manifests.DONE:
            progress.note(f"{folder}: done already, by the same job on the same store")
            return load(folder)
    with run_folder(folder) as place:
        found = _run(job, place, solver, identity, progress)
    return replace(found, run_dir=folder)


def _run(job: Job, folder: Path | None, solver: Solver, identity: dict[str, Any], progress: Progress) -> Discovery:
    began = time.perf_counter()
    log = StageLog()
    manifest = about(job)
    manifest["config"] |= identity
    if folder is not None:
        manifests.write_manifest(folder, {**manifest, "status": manifests.RUNNING})
    progress.note(opening_words(job))
    stream = open_stream(job)
    with contextlib.ExitStack() as stack:
        spill = None
        if job.plan.memory.spilled:
            parent = scratch_folder(job.config)
            parent.mkdir(parents=True, exist_ok=True)
            spill = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skillaxes-", dir=parent)))
        projections = ProjectionStore(stream.first_row, stream.n_rows, spill)
        stack.callback(projections.close)
        try:
            solved, plan, shortages = within_memory(job, stream, solver, projections, log, progress)
            ranking, topk, selection = log.run("ranking", stream, lambda: ranked(job, solved, stream, folder))
        except BaseException:
            if folder is not None:
                manifests.write_manifest(folder, {**manifest, "status": manifests.FAILED, "stages": log.stages})
            raise
    directions = directions_of(solved)
    manifest |= {
        "status": manifests.DONE,
        "stages": log.stages,
        "reads": round(stream.reads + stream.rows_read_twice / stream.n_rows, 4),
        "bytes_read": stream.bytes_read,
        "peak_memory_bytes": memory.peak(),
        **findings(job, solved, ranking, topk),
        "seconds": round(time.perf_counter() - began, 3),
    }
    if (gpu := stream.on_device()) is not None:
        manifest |= {"plan": plan.as_dict(), "gpu": {**gpu, "out_of_memory": shortages}}
        manifest["announcements"] = [*manifest["announcements"], *map(announced, shortages[-1:])]
    if folder is not None:
        write(folder, directions, topk, selection, manifest)
    return Discovery(directions, topk, manifest, None)
