"""``discover``: from a store to directions and the rows at their ends, in a run folder or in memory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skillaxes import memory
from skillaxes.announce import announcements, layer_energy, shared_top
from skillaxes.config import DiscoverConfig, make_config
from skillaxes.devices import Resolved, resolve
from skillaxes.errors import InputError, UsageError
from skillaxes.pca.projections import ProjectionStore
from skillaxes.pca.split_half import subspaces
from skillaxes.planning import Plan, make_plan, scratch_folder
from skillaxes.progress import SILENT, Progress
from skillaxes.ranking.lists import Ranking, rank
from skillaxes.ranking.rows import RowBlock
from skillaxes.ranking.tables import selection_table, topk_table
from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.atomic import replacing
from skillaxes.run_folder.directions import Directions, read_directions, write_directions
from skillaxes.run_folder.formats import FORMAT_VERSION, SCORES, SELECTION, SIDES, TOPK
from skillaxes.run_folder.scores import ScoresWriter
from skillaxes.solve import Solved, StageLog, solve
from skillaxes.store import Store, open_store
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
    **options: Any,
) -> Discovery:
    """Find the principal directions of a store and the rows at both ends of each.

    Parameters
    ----------
    store : a store or its path
    run_dir : folder for the results; None keeps them in memory
    overwrite : replace what another job left in ``run_dir``
    progress : where remarks and progress go
    **options : the fields of :class:`skillaxes.config.DiscoverConfig`

    Raises
    ------
    UsageError, StoreError, BadRowsError, RunFolderError, DeviceError : see :mod:`skillaxes.errors`
    """
    job = _prepare(store, options)
    folder = None if run_dir is None else Path(run_dir)
    if folder is not None:
        config = job.config.result_changing()
        before = manifests.claim(folder, "discover", config, job.store.fingerprint(), overwrite)
        if before is not None and before.get("status") == manifests.DONE:
            progress.note(f"{folder}: done already, by the same job on the same store")
            return load(folder)
    with _folder(folder) as place:
        found = _run(job, place, progress)
    return replace(found, run_dir=folder)


def plan(store: Store | str | Path, **options: Any) -> Plan:
    """What ``discover`` would do with these options, without doing it."""
    return _prepare(store, options).plan


def load(run_dir: str | Path) -> Discovery:
    """What a run folder holds.

    Raises
    ------
    RunFolderError : it is no run folder, or not complete
    """
    import pyarrow.parquet as pq

    folder = Path(run_dir)
    manifest = manifests.read_manifest(folder)
    return Discovery(read_directions(folder), pq.read_table(folder / TOPK), manifest, folder)


@dataclass(frozen=True)
class _Prepared:
    store: Store
    config: DiscoverConfig
    columns: tuple[slice, ...]
    layers: tuple[slice, ...]
    layer_ids: tuple[int | str, ...]
    device: Resolved
    plan: Plan


def _prepare(store: Store | str | Path, options: dict[str, Any]) -> _Prepared:
    """Everything that can be refused before a row is read."""
    config = make_config(**options)
    device = resolve(config.device)
    opened = store if isinstance(store, Store) else open_store(store)
    columns = opened.columns if config.layers is None else opened.columns_of(config.layers)
    layers, ids = _layers_in_use(opened, columns)
    n_columns = sum(part.stop - part.start for part in columns)
    config.check_shape(opened.n_rows, n_columns)
    config = replace(config, pool=min(config.pool, opened.n_rows // 2))
    if config.scale == "layer-rms" and not layers:
        raise UsageError(
            "--scale layer-rms: this store does not say which columns are which layer; ingest it with --layer-ids and "
            "--hidden, or type --scale column-std"
        )
    planned = make_plan(opened, config, n_columns, str(device.device), device.reason)
    return _Prepared(opened, config, columns, layers, ids, device, planned)


def _layers_in_use(store: Store, columns: tuple[slice, ...]) -> tuple[tuple[slice, ...], tuple[int | str, ...]]:
    """Columns of each layer among those in use, and the layers' ids; positions where the ids are unknown."""
    hidden = store.attributes.hidden
    if hidden is None:
        return (), ()
    known = store.attributes.layer_ids
    places = [place for part in columns for place in range(part.start // hidden, part.stop // hidden)]
    ids = tuple(known[place] if known is not None else f"#{place} (id unknown)" for place in places)
    return tuple(slice(i * hidden, (i + 1) * hidden) for i in range(len(places))), ids


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[Path | None]:
    """The run folder while a job writes to it; what could not be used leaves nothing behind."""
    if folder is None:
        yield None
        return
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except InputError:
        manifests.clear(folder)
        if created:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _run(job: _Prepared, folder: Path | None, progress: Progress) -> Discovery:
    began = time.perf_counter()
    config, store, planned = job.config, job.store, job.plan
    log = StageLog()
    about = _about(job)
    if folder is not None:
        manifests.write_manifest(folder, {**about, "status": manifests.RUNNING})
    progress.note(_opening_words(job))
    stream = PanelStream(
        store,
        panel_rows=planned.panel_rows,
        device=job.device.device,
        columns=job.columns,
        cache_bytes=planned.memory.cache,
    )
    with contextlib.ExitStack() as stack:
        spill = None
        if planned.memory.spilled:
            parent = scratch_folder(config)
            parent.mkdir(parents=True, exist_ok=True)
            spill = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skillaxes-", dir=parent)))
        projections = ProjectionStore(stream.first_row, stream.n_rows, spill)
        stack.callback(projections.close)
        try:
            solved = solve(stream, config, planned, job.layers, projections, log, progress)
            outcome = log.run("ranking", stream, lambda: _ranked(job, solved, folder, stack))
        except BaseException:
            if folder is not None:
                manifests.write_manifest(folder, {**about, "status": manifests.FAILED, "stages": log.stages})
            raise
        ranking, topk, selection = outcome
        directions = _directions(solved)
        findings = {
            **about,
            "status": manifests.DONE,
            "stages": log.stages,
            "reads": round(stream.reads + _sample_reads(stream, planned), 4),
            "bytes_read": stream.bytes_read,
            "peak_memory_bytes": memory.peak(),
            **_findings(job, solved, ranking, topk),
        }
    if folder is not None:
        import pyarrow.parquet as pq

        write_directions(folder, directions)
        for name, table in ((TOPK, topk), (SELECTION, selection)):
            with replacing(folder / name) as aside:
                pq.write_table(table, aside, compression="zstd")
        findings["seconds"] = round(time.perf_counter() - began, 3)
        manifests.write_manifest(folder, findings)
    findings["seconds"] = round(time.perf_counter() - began, 3)
    return Discovery(directions, topk, findings, None)


def _sample_reads(stream: PanelStream, planned: Plan) -> float:
    """The part of a read that the warm start cost where its rows were not kept for the first read."""
    kept = planned.memory.cache >= stream.store.nbytes
    return 0.0 if kept else planned.sample_rows / max(stream.n_rows, 1)


def _ranked(job: _Prepared, solved: Solved, folder: Path | None, stack: contextlib.ExitStack) -> tuple[Ranking, Any, Any]:
    """Top-k tables, and ``scores.zarr`` on the way."""
    config, store = job.config, job.store
    k = config.components
    depth = max(config.top, config.pool)
    if folder is None:
        ranking = rank(solved.kept, k, top=config.top, depth=depth, rank_by=config.rank_by)
    else:
        with replacing(folder / SCORES) as aside:
            writer = ScoresWriter(aside, store.n_rows, k, {"rank_by": config.rank_by})

            def write(block: RowBlock) -> None:
                writer.write(
                    block.start,
                    block.projection[:, :k].numpy(),
                    block.norm.numpy(),
                    block.centered_norm.numpy(),
                )

            ranking = rank(solved.kept, k, top=config.top, depth=depth, rank_by=config.rank_by, on_block=write)
    topk = topk_table(solved.kept, ranking, solved.result.angle_bounds, config.top, store.trace_ids)
    attributes = store.attributes
    selection = selection_table(
        solved.kept,
        ranking,
        n_components=k,
        n_rows=store.n_rows,
        top=config.top,
        pool=config.pool,
        seed=config.seed,
        trace_ids=store.trace_ids,
        meta={
            "split_half": [None if np.isnan(v) else round(v, 6) for v in solved.stability.cosines.tolist()],
            "token_range": attributes.token_range,
            "store": {
                "fingerprint": store.fingerprint(),
                "model": attributes.model,
                "revision": attributes.revision,
                "hook": attributes.hook,
                "pooling": attributes.pooling,
            },
        },
    )
    return ranking, topk, selection


def _directions(solved: Solved) -> Directions:
    result = solved.result
    return Directions(
        components=result.components.float().numpy(),
        mean=result.mean.float().numpy(),
        explained_variance=result.explained_variance.float().numpy(),
        explained_variance_ratio=result.explained_variance_ratio.float().numpy(),
        singular_values=result.singular_values.float().numpy(),
        residuals=result.residuals.float().numpy(),
        split_half=solved.stability.cosines.float().numpy(),
        scale=None if solved.scale is None else solved.scale.cpu().numpy(),
    )


def _about(job: _Prepared) -> dict[str, Any]:
    import torch

    store = job.store
    known = store.attributes
    return {
        "format_version": FORMAT_VERSION,
        "command": "discover",
        "config": job.config.as_dict(),
        "store": {
            "path": str(store.path),
            "fingerprint": store.fingerprint(),
            "shape": list(store.shape),
            "dtype": store.dtype,
            "chunk_rows": store.chunk_rows,
            "n_rows": store.n_rows,
            "n_features": store.n_features,
            "nbytes": store.nbytes,
            "layer_ids": known.layer_ids,
            "hidden": known.hidden,
            "model": known.model,
            "revision": known.revision,
            "hook": known.hook,
            "pooling": known.pooling,
            "token_range": known.token_range,
        },
        "versions": manifests.versions(),
        "machine": manifests.machine(str(job.device.device), torch.get_num_threads(), memory.granted()),
        "plan": job.plan.as_dict(),
    }


def _findings(job: _Prepared, solved: Solved, ranking: Ranking, topk: pa.Table) -> dict[str, Any]:
    result, stability, config = solved.result, solved.stability, job.config
    settled = topk.to_pydict()
    counts = {(i, side): 0 for i in range(config.components) for side in SIDES}
    for direction, side, value in zip(settled["direction"], settled["side"], settled["settled"], strict=True):
        counts[direction, side] += value
    together = subspaces(result.explained_variance, stability.standard_errors)
    groups = {index: group for group in together for index in group}
    shared = shared_top(ranking, config.top)
    energy = layer_energy(result.components, job.layers)
    variance = result.layer_variance
    return {
        "solver": {
            "name": job.plan.solver,
            "reasons": job.plan.reasons,
            "block_size": job.plan.block_size,
            "reads": result.reads,
            "converged": result.converged,
            "tolerance": config.tolerance,
            "max_residual": float(result.residuals.max()),
        },
        "rows": {
            "total": job.store.n_rows,
            "ranked": ranking.n_ranked,
            "zero": ranking.n_zero,
            "bad": solved.bad.tolist(),
        },
        "total_variance": result.total_variance,
        "announcements": announcements(
            result,
            stability,
            ranking,
            top=config.top,
            layers=job.layers,
            layer_ids=job.layer_ids,
            bad=solved.bad,
            tolerance=config.tolerance,
        ),
        "layers": {
            "ids": list(job.layer_ids),
            "variance_share": (variance / variance.sum().clamp(min=1e-300)).tolist(),
            "direction_energy": energy,
        },
        "directions": [
            {
                "index": i,
                "eigenvalue": float(result.explained_variance[i]),
                "explained_variance_ratio": float(result.explained_variance_ratio[i]),
                "residual": float(result.residuals[i]),
                "angle_bound": float(result.angle_bounds[i]),
                "bound": "rigorous" if result.bound_rigorous else "estimated",
                "split_half": float(stability.cosines[i]),
                "norm_correlation": float(ranking.norm_correlation[i]),
                "shared_top": shared[i],
                "settled": {side: counts[i, side] for side in SIDES},
                "subspace": groups[i],
            }
            for i in range(config.components)
        ],
    }


def _opening_words(job: _Prepared) -> str:
    store, planned = job.store, job.plan
    shape = " x ".join(f"{extent:,}" for extent in store.shape)
    return (
        f"{store.path}: {shape} {store.dtype}, {memory.show(store.nbytes)}; {planned.solver} solver on {planned.device} "
        f"({planned.device_reason}), rows through {planned.road}"
    )



