"""From kept rows to the tables and findings of a run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skillaxes import memory
from skillaxes.announce import announcements, layer_energy, shared_top
from skillaxes.cluster.world import World
from skillaxes.errors import InputError
from skillaxes.job import Job
from skillaxes.pca.split_half import subspaces
from skillaxes.planning import GIVEN
from skillaxes.ranking.cancelled import refined
from skillaxes.ranking.lists import Ranking, rank
from skillaxes.ranking.lookup import look_up
from skillaxes.ranking.rows import RowBlock
from skillaxes.ranking.tables import listed_rows, selection_table, topk_table
from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.atomic import aside_of, replacing
from skillaxes.run_folder.directions import Directions, write_directions
from skillaxes.run_folder.formats import SCORES, SELECTION, SIDES, TOPK
from skillaxes.run_folder.scores import ScoresWriter
from skillaxes.solve import Solved
from skillaxes.stream.panels import PanelStream
from skillaxes.traffic import Shape, read_bytes

if TYPE_CHECKING:
    import pyarrow as pa


def ranked(job: Job, solved: Solved, stream: PanelStream, folder: Path | None) -> tuple[Ranking, pa.Table, pa.Table]:
    """Top-k tables, and ``scores.zarr`` on the way.

    Raises
    ------
    InputError : rows of zeros and rows left out leave too few for two lists that do not overlap
    """
    config, store = job.config, job.store
    k = config.components
    depth = max(config.top, config.pool)
    kept = refined(solved.kept, stream, solved.result.mean, solved.scale)
    with _scores(job, folder) as write:
        ranking = rank(kept, k, top=config.top, depth=depth, rank_by=config.rank_by, on_block=write, world=job.world)
    _refuse_overlap(job, solved, ranking)
    pool = min(config.pool, ranking.n_ranked // 2)
    scored, listed = listed_rows(ranking, k, store.n_rows, config.top, pool, config.seed)
    found = look_up(kept, scored, listed, k, job.world)
    topk = topk_table(found, ranking, solved.result.angle_bounds, config.top, store.trace_ids)
    if not kept.centered_known:
        topk = _with_centered_cosines(topk, solved, stream, job.world)
    attributes = store.attributes
    selection = selection_table(
        found,
        ranking,
        n_components=k,
        n_rows=store.n_rows,
        top=config.top,
        pool=pool,
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


@contextlib.contextmanager
def _scores(job: Job, folder: Path | None) -> Iterator[Callable[[RowBlock], None]]:
    """What takes the blocks of this process for ``scores.zarr``, which is in place when all have written theirs."""
    if folder is None:
        yield lambda block: None
        return
    world, k = job.world, job.config.components
    path = folder / SCORES
    with replacing(path) if world.rank == 0 else contextlib.nullcontext(aside_of(path)) as aside:
        writer = ScoresWriter(aside, job.store.n_rows, k)
        if world.rank == 0:
            writer.create({"rank_by": job.config.rank_by})
        world.together("the scores")

        def write(block: RowBlock) -> None:
            absent = torch.where(block.bad, torch.nan, 0.0)  # rows of zeros have scores of 0, rows left out have none
            writer.write(
                block.start,
                (block.projection[:, :k] + absent[:, None]).numpy(),
                (block.norm + absent).numpy(),
                (block.centered_norm + absent).numpy(),
            )

        yield write
        world.together("the end of the scores")


def _refuse_overlap(job: Job, solved: Solved, ranking: Ranking) -> None:
    """The options were held against all rows; only now it is known how many of them can be ranked."""
    top, ranked_rows = job.config.top, ranking.n_ranked
    if 2 * top <= ranked_rows:
        return
    raise InputError(
        f"--top {top}: of {job.store.n_rows:,} rows {ranked_rows:,} can be ranked ({ranking.n_zero:,} rows of zeros, "
        f"{len(solved.bad):,} left out), so both sides would overlap; "
        + (f"type --top {ranked_rows // 2} or less" if ranked_rows >= 2 else "needed: at least 2")
    )


def _with_centered_cosines(topk: pa.Table, solved: Solved, stream: PanelStream, world: World) -> pa.Table:
    """The centred cosines of the listed rows alone, from the rows themselves: their mean was not known in time."""
    import pyarrow as pa

    rows = np.unique(topk["row"].to_numpy())
    norms = {}
    for row in rows[(rows >= stream.first_row) & (rows < stream.last_row)].tolist():
        values = stream.sample([(row, row + 1)])[0].double()
        values = values if solved.scale is None else values * solved.scale.cpu()
        norms[row] = float((values - solved.result.mean).norm())
    norms = {row: norm for part in world.gather(norms) for row, norm in part.items()}
    lengths = np.array([norms[row] for row in topk["row"].to_pylist()])
    cosines = np.divide(topk["projection"].to_numpy(), lengths, where=lengths > 0, out=np.zeros(len(lengths)))
    place = topk.schema.get_field_index("cosine_centered")
    return topk.set_column(place, topk.schema.field(place), pa.array(cosines.astype(np.float32)))


def directions_of(solved: Solved) -> Directions:
    """As ``directions.safetensors`` holds them."""
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


def write(folder: Path, directions: Directions, topk: pa.Table, selection: pa.Table, manifest: dict[str, Any]) -> None:
    """Put everything in place; the manifest, which says that it is done, comes last."""
    import pyarrow.parquet as pq

    write_directions(folder, directions)
    for name, table in ((TOPK, topk), (SELECTION, selection)):
        with replacing(folder / name) as aside:
            repeated = [field.name for field in table.schema if field.type == "string"]
            pq.write_table(table, aside, compression="zstd", use_dictionary=repeated)
    manifests.write_manifest(folder, manifest)


def spent(job: Job, stream: PanelStream, stages: list[dict[str, Any]], repeated: int) -> dict[str, Any]:
    """What a manifest says of the effort: of all processes together, and of each where there are several.

    Parameters
    ----------
    repeated : rows of this process that killed attempts had read after their last checkpoint
    """
    again = stream.rows_read_twice + repeated
    own = {
        "rows": [stream.first_row, stream.last_row],
        "bytes_read": stream.bytes_read + repeated * job.store.n_features * job.store.itemsize,
        "rows_read_twice": again,
        "peak_memory_bytes": max([memory.peak(), *(stage["peak_memory_bytes"] for stage in stages)]),
        "stages": stages,
    }
    parts = job.world.gather({"name": job.world.name, "threads": torch.get_num_threads(), **own})
    together = {
        "stages": [_of_all(same) for same in zip(*(part["stages"] for part in parts), strict=False)],
        "bytes_read": sum(part["bytes_read"] for part in parts),
        "reads": round(stream.reads + sum(part["rows_read_twice"] for part in parts) / job.store.n_rows, 4),
        "peak_memory_bytes": max(part["peak_memory_bytes"] for part in parts),
    }
    if job.world.size == 1:
        return together
    for part in parts:
        part["seconds"] = {stage["name"]: stage["seconds"] for stage in part.pop("stages")}
    return {**together, "processes": parts, "traffic": _traffic(job, stages)}


def _traffic(job: Job, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each Krylov read was to hand over by its basis, and what it has handed over; of each process."""
    found = list[dict[str, Any]]()
    for stage in stages:
        if stage["status"] == "done" and "basis" in stage:
            number = len(found) + 1
            shape = Shape(
                n_rows=job.store.n_rows,
                n_columns=job.plan.n_columns,
                itemsize=job.store.itemsize,
                chunk_rows=job.store.chunk_rows,
                block_size=job.plan.block_size,
                n_layers=len(job.layers),
            )
            predicted = read_bytes(shape, number, stage["basis"], solving=job.plan.solver != GIVEN)
            found.append({"name": stage["name"], "predicted": predicted, "measured": stage.get("handed_over")})
    return found


def _of_all(stages: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """One stage as it went in all processes: bytes in all, the longest time, the largest memory."""
    return {
        **stages[0],
        "seconds": max(stage["seconds"] for stage in stages),
        "bytes": sum(stage["bytes"] for stage in stages),
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in stages),
    }


def findings(job: Job, solved: Solved, ranking: Ranking, topk: pa.Table) -> dict[str, Any]:
    """What a manifest says of the outcome."""
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
            solver=job.plan.solver,
            dtype=job.store.dtype,
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
