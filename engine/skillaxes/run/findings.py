"""From a solution to the tables, the findings and the manifest of a run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skillaxes import memory
from skillaxes.cluster.world import World
from skillaxes.errors import InputError
from skillaxes.files import atomic_write, temp_path
from skillaxes.pca.base import Solution
from skillaxes.pca.row_scores import RowBlock
from skillaxes.pca.stability import subspaces
from skillaxes.ranking.refine import refine
from skillaxes.ranking.tables import gather_rows, listed_rows, selection_table, topk_table
from skillaxes.ranking.topk import Ranking, rank
from skillaxes.run.diagnostics import diagnostics, layer_energy, shared_top
from skillaxes.run.job import Job
from skillaxes.run_folder.directions import Directions, write_directions
from skillaxes.run_folder.manifest import machine, versions, write_manifest
from skillaxes.run_folder.schema import FORMAT_VERSION, SCORES, SELECTION, SIDES, TOPK, DirectionStats, Manifest
from skillaxes.run_folder.scores import ScoresWriter
from skillaxes.stream.panels import PanelStream

if TYPE_CHECKING:
    import pyarrow as pa


def manifest_header(job: Job) -> Manifest:
    """The manifest of a job at its beginning: options, store, versions, machine and plan."""
    import torch

    store = job.store
    known = store.attributes
    return {
        "format_version": FORMAT_VERSION,
        "command": job.command,
        "config": {**job.config.as_dict(), **job.identity},
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
        "versions": versions(),
        "machine": machine(str(job.device.device), torch.get_num_threads(), memory.granted()),
        "plan": job.plan.as_dict(),
    }


def ranked(
    job: Job, solution: Solution, stream: PanelStream, folder: Path | None
) -> tuple[Ranking, pa.Table, pa.Table]:
    """Rank all rows, write ``scores.zarr`` and make the two tables.

    Returns
    -------
    ranking : top-k lists and figures of all rows
    topk, selection : tables of ``topk.parquet`` and ``selection.parquet``

    Raises
    ------
    InputError : without rows of zeros and rows left out, too few rows for two lists that do not overlap
    """
    ranking_options, store = job.config.ranking, job.store
    k, seed, top = job.config.solver.components, job.config.solver.seed, ranking_options.top
    depth = max(top, ranking_options.pool)
    rows = refine(solution.rows, stream, solution.result.mean, solution.scale)
    with _scores_writer(job, folder) as write:
        ranking = rank(rows, k, top=top, depth=depth, rank_by=ranking_options.rank_by, on_block=write, world=job.world)
    _refuse_overlap(job, solution, ranking)
    pool = min(ranking_options.pool, ranking.n_ranked // 2)
    scored, normed = listed_rows(ranking, k, store.n_rows, top, pool, seed)
    found = gather_rows(rows, scored, normed, k, job.world)
    topk = topk_table(found, ranking, solution.result.angle_bounds, top, store.trace_ids)
    if not rows.centered_known:
        topk = _with_centered_cosines(topk, solution, stream, job.world)
    attributes = store.attributes
    selection = selection_table(
        found,
        ranking,
        n_components=k,
        n_rows=store.n_rows,
        top=top,
        pool=pool,
        seed=seed,
        trace_ids=store.trace_ids,
        meta={
            "split_half": [None if np.isnan(v) else round(v, 6) for v in solution.stability.cosines.tolist()],
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


def directions_of(solution: Solution) -> Directions:
    """The arrays of ``directions.safetensors``."""
    result = solution.result
    return Directions(
        components=result.components.float().numpy(),
        mean=result.mean.float().numpy(),
        explained_variance=result.explained_variance.float().numpy(),
        explained_variance_ratio=result.explained_variance_ratio.float().numpy(),
        singular_values=result.singular_values.float().numpy(),
        residuals=result.residuals.float().numpy(),
        split_half=solution.stability.cosines.float().numpy(),
        scale=None if solution.scale is None else solution.scale.cpu().numpy(),
    )


def effort(job: Job, stream: PanelStream, stages: list[dict[str, Any]], repeated: int) -> Manifest:
    """Time, bytes and memory of a job for its manifest: of all processes together, and of each of several.

    Parameters
    ----------
    repeated : rows of this process that killed attempts read after their last checkpoint
    """
    again = stream.rows_read_twice + repeated
    own = {
        "rows": [stream.first_row, stream.last_row],
        "bytes_read": stream.bytes_read + repeated * job.store.n_features * job.store.itemsize,
        "rows_read_twice": again,
        "peak_memory_bytes": max([memory.peak(), *(stage["peak_memory_bytes"] for stage in stages)]),
        "stages": stages,
    }
    parts = job.world.all_gather_object({"name": job.world.name, "threads": torch.get_num_threads(), **own})
    job_wide: Manifest = {
        "stages": [_merged(same) for same in zip(*(part["stages"] for part in parts), strict=False)],
        "bytes_read": sum(part["bytes_read"] for part in parts),
        "reads": round(stream.reads + sum(part["rows_read_twice"] for part in parts) / job.store.n_rows, 4),
        "peak_memory_bytes": max(part["peak_memory_bytes"] for part in parts),
    }
    if job.world.world_size == 1:
        return job_wide
    for part in parts:
        part["seconds"] = {stage["name"]: stage["seconds"] for stage in part.pop("stages")}
    return {**job_wide, "processes": parts}


def findings(job: Job, solution: Solution, ranking: Ranking, topk: pa.Table) -> Manifest:
    """Solver, rows, diagnostics, layers and directions of a finished job for its manifest."""
    result, tolerance = solution.result, job.config.solver.tolerance
    variance = result.layer_variance
    return {
        "solver": {
            "name": job.plan.solver,
            "reasons": job.plan.reasons,
            "block_size": job.plan.block_size,
            "reads": result.reads,
            "converged": result.converged,
            "tolerance": tolerance,
            "max_residual": float(result.residuals.max()),
        },
        "rows": {
            "total": job.store.n_rows,
            "ranked": ranking.n_ranked,
            "zero": ranking.n_zero,
            "bad": solution.bad_rows.tolist(),
        },
        "total_variance": result.total_variance,
        "diagnostics": diagnostics(job, solution, ranking),
        "layers": {
            "ids": list(job.layer_ids),
            "variance_share": (variance / variance.sum().clamp(min=1e-300)).tolist(),
            "direction_energy": layer_energy(result.components, job.layers),
        },
        "directions": [one.as_json() for one in _direction_stats(job, solution, ranking, topk)],
    }


def write(folder: Path, directions: Directions, topk: pa.Table, selection: pa.Table, manifest: Manifest) -> None:
    """Write directions, tables and manifest, each atomically; the manifest last, since it marks the run as done."""
    import pyarrow.parquet as pq

    write_directions(folder, directions)
    for name, table in ((TOPK, topk), (SELECTION, selection)):
        with atomic_write(folder / name) as aside:
            repeated = [field.name for field in table.schema if field.type == "string"]
            pq.write_table(table, aside, compression="zstd", use_dictionary=repeated)
    write_manifest(folder, manifest)


@contextlib.contextmanager
def _scores_writer(job: Job, folder: Path | None) -> Iterator[Callable[[RowBlock], None]]:
    """A function that writes a block of rows to ``scores.zarr``, which is complete when all processes are done."""
    if folder is None:
        yield lambda block: None
        return
    world, k = job.world, job.config.solver.components
    path = folder / SCORES
    with atomic_write(path) if world.rank == 0 else contextlib.nullcontext(temp_path(path)) as aside:
        writer = ScoresWriter(aside, job.store.n_rows, k)
        if world.rank == 0:
            writer.create({"rank_by": job.config.ranking.rank_by})
        world.barrier("the scores")

        def write(block: RowBlock) -> None:
            absent = torch.where(block.bad, torch.nan, 0.0)  # rows left out have no scores; rows of zeros have 0
            writer.write(
                block.start,
                (block.projection[:, :k] + absent[:, None]).numpy(),
                (block.norm + absent).numpy(),
                (block.centered_norm + absent).numpy(),
            )

        yield write
        world.barrier("the end of the scores")


def _refuse_overlap(job: Job, solution: Solution, ranking: Ranking) -> None:
    """Refuse lists that overlap: the number of rows that can be ranked is known only after the ranking.

    Raises
    ------
    InputError : fewer than two lists of ``--top`` rows
    """
    top, ranked_rows = job.config.ranking.top, ranking.n_ranked
    if 2 * top <= ranked_rows:
        return
    raise InputError(
        f"--top {top}: of {job.store.n_rows:,} rows {ranked_rows:,} can be ranked ({ranking.n_zero:,} rows of zeros, "
        f"{len(solution.bad_rows):,} left out), so both sides would overlap; "
        + (f"type --top {ranked_rows // 2} or less" if ranked_rows >= 2 else "needed: at least 2")
    )


def _with_centered_cosines(topk: pa.Table, solution: Solution, stream: PanelStream, world: World) -> pa.Table:
    """``topk`` with centred cosines from the rows themselves, where the mean was known after the last read only."""
    import pyarrow as pa

    rows = np.unique(topk["row"].to_numpy())
    norms = {}
    for row in rows[(rows >= stream.first_row) & (rows < stream.last_row)].tolist():
        values = stream.sample([(row, row + 1)])[0].double()
        values = values if solution.scale is None else values * solution.scale.cpu()
        norms[row] = float((values - solution.result.mean).norm())
    norms = {row: norm for part in world.all_gather_object(norms) for row, norm in part.items()}
    lengths = np.array([norms[row] for row in topk["row"].to_pylist()])
    cosines = np.divide(topk["projection"].to_numpy(), lengths, where=lengths > 0, out=np.zeros(len(lengths)))
    place = topk.schema.get_field_index("cosine_centered")
    return topk.set_column(place, topk.schema.field(place), pa.array(cosines.astype(np.float32)))


def _merged(stages: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """One stage of all processes: sum of bytes, longest time, largest memory."""
    return {
        **stages[0],
        "seconds": max(stage["seconds"] for stage in stages),
        "bytes": sum(stage["bytes"] for stage in stages),
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in stages),
    }


def _direction_stats(job: Job, solution: Solution, ranking: Ranking, topk: pa.Table) -> list[DirectionStats]:
    """The figures of every direction."""
    result, stability, k = solution.result, solution.stability, job.config.solver.components
    members = {name: topk[name].to_pylist() for name in ("direction", "side", "certified")}
    certified = [dict.fromkeys(SIDES, 0) for _ in range(k)]
    for direction, side, one in zip(*members.values(), strict=True):
        certified[direction][side] += one
    groups = {
        index: group for group in subspaces(result.explained_variance, stability.standard_errors) for index in group
    }
    shared = shared_top(ranking, job.config.ranking.top)
    return [
        DirectionStats(
            index=i,
            eigenvalue=float(result.explained_variance[i]),
            bound="rigorous" if result.bound_rigorous else "estimated",
            subspace=tuple(groups[i]),
            explained_variance_ratio=float(result.explained_variance_ratio[i]),
            residual=float(result.residuals[i]),
            angle_bound=float(result.angle_bounds[i]),
            split_half=float(stability.cosines[i]),
            norm_correlation=float(ranking.norm_correlation[i]),
            shared_top=shared[i],
            certified=certified[i],
        )
        for i in range(k)
    ]
