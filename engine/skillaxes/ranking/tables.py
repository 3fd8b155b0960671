"""Rankings as the tables of a run folder: ``topk.parquet`` and ``selection.parquet``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from skillaxes.pca.projections import BLOCK_ROWS
from skillaxes.ranking.lists import Ranking, scores_as_cosines
from skillaxes.ranking.rows import KeptRows
from skillaxes.ranking.settled import settled_members
from skillaxes.run_folder import formats
from skillaxes.run_folder.formats import SELECTION_SCHEMA, SIDES, TOPK_SCHEMA

SAMPLE_ROWS = 20_000  # rows of the `sample` role; a smaller store is sampled whole
MIDDLE_ROWS = 50  # rows a direction from the quantiles in between

TraceIds = Callable[[Sequence[int]], Sequence[str | None]]


def topk_table(kept: KeptRows, ranking: Ranking, angles: Tensor, top: int, trace_ids: TraceIds) -> pa.Table:
    """The ``top`` rows of both sides of every component, as ``topk.parquet`` holds them."""
    columns: dict[str, list[Any]] = {name: [] for name in TOPK_SCHEMA.names}
    for direction, angle in enumerate(angles.tolist()):
        for side in SIDES:
            ended = getattr(ranking.lists, side)
            rows = _present(ended.rows[direction, :top])
            values = ended.values[direction] * (1 if side == formats.POSITIVE else -1)
            rest = _present(ended.rows[direction])
            outsider = float(values[len(rows)]) if len(rest) > len(rows) else -np.inf
            scaled = scores_as_cosines(values[: len(rows)], ranking.rank_by, ranking.largest_norm)
            beyond = float(scores_as_cosines(torch.tensor(outsider), ranking.rank_by, ranking.largest_norm))
            columns["settled"] += settled_members(scaled, beyond, angle).tolist()
            columns["direction"] += [direction] * len(rows)
            columns["side"] += [side] * len(rows)
            columns["position"] += list(range(len(rows)))
            columns["row"] += rows.tolist()
            block = kept.at(rows)
            columns["cosine"] += block.scores(formats.RAW_COSINE)[:, direction].tolist()
            centered = block.scores(formats.CENTERED_COSINE)[:, direction].tolist()
            columns["cosine_centered"] += [None if np.isnan(value) else value for value in centered]
            columns["projection"] += block.projection[:, direction].tolist()
    columns["trace_id"] = list(trace_ids(columns["row"]))
    return pa.table(columns, schema=TOPK_SCHEMA)


def selection_table(
    kept: KeptRows,
    ranking: Ranking,
    *,
    n_components: int,
    n_rows: int,
    top: int,
    pool: int,
    seed: int,
    trace_ids: TraceIds,
    meta: dict[str, Any],
) -> pa.Table:
    """What the labeling module may see: rows and scores, as ``selection.parquet`` holds them."""
    parts = []
    n_lists = len(kept.at_shift)
    for index in range(n_lists):
        kind, direction = (formats.COMPONENT, index) if index < n_components else (formats.RANDOM, index - n_components)
        for side in SIDES:
            ended = getattr(ranking.lists, side)
            rows = _present(ended.rows[index, : max(top, pool)])
            values = ended.values[index, : len(rows)].numpy()
            shown = min(top, len(rows))
            parts.append(_part(kind, formats.SHOWN, direction, side, rows[:shown], values[:shown], 0))
            parts.append(_part(kind, formats.HELD_OUT, direction, side, rows[shown:], values[shown:], shown))
    parts += _sampled(kept, ranking, n_components, n_rows, max(top, pool), seed)
    table = pa.concat_tables(parts).combine_chunks()
    rows = table["row"].to_numpy()
    unique, inverse = np.unique(rows, return_inverse=True)
    ids = pa.array(list(trace_ids(unique.tolist())), pa.string()).take(pa.array(inverse))
    norms = kept.moments.norm[unique - kept.first_row][inverse]
    table = table.set_column(table.schema.get_field_index("trace_id"), SELECTION_SCHEMA.field("trace_id"), ids)
    table = table.set_column(table.schema.get_field_index("norm"), SELECTION_SCHEMA.field("norm"), pa.array(norms))
    about = {"n_rows": n_rows, "rank_by": ranking.rank_by, "top": top, "pool": pool, **meta}
    return table.cast(SELECTION_SCHEMA).replace_schema_metadata(
        {formats.SELECTION_META: json.dumps(about, sort_keys=True).encode()}
    )


def _sampled(kept: KeptRows, ranking: Ranking, n_components: int, n_rows: int, pool: int, seed: int) -> list[pa.Table]:
    """The roles ``sample`` and ``middle`` of every component."""
    rows = sample_rows(n_rows, seed)
    blocks = [kept.at(part) for part in np.array_split(rows, -(-len(rows) // BLOCK_ROWS))]
    scores = torch.cat([block.scores(ranking.rank_by)[:, :n_components] for block in blocks]).numpy()
    rankable = torch.cat([block.rankable(ranking.rank_by) for block in blocks]).numpy()
    rows, scores = rows[rankable], scores[rankable]
    parts = []
    for direction in range(n_components):
        values = scores[:, direction]
        parts.append(_part(formats.COMPONENT, formats.SAMPLE, direction, None, rows, values, 0))
        ends = np.concatenate([_present(getattr(ranking.lists, side).rows[direction, :pool]) for side in SIDES])
        inner = np.flatnonzero(~np.isin(rows, ends))
        inner = inner[np.argsort(values[inner], kind="stable")]
        places = np.unique(np.linspace(0, len(inner) - 1, min(MIDDLE_ROWS, len(inner))).astype(np.int64))
        chosen = inner[places]
        parts.append(_part(formats.COMPONENT, formats.MIDDLE, direction, None, rows[chosen], values[chosen], 0))
    return parts


def sample_rows(n_rows: int, seed: int) -> np.ndarray:
    """The rows of the ``sample`` role, ascending, int64."""
    if n_rows <= SAMPLE_ROWS:
        return np.arange(n_rows)
    rng = np.random.default_rng([seed, n_rows, SAMPLE_ROWS])
    return np.sort(rng.choice(n_rows, SAMPLE_ROWS, replace=False))


def _present(rows: Tensor) -> np.ndarray:
    found = rows.numpy()
    return found[found >= 0]


def _part(
    kind: str, role: str, direction: int, side: str | None, rows: np.ndarray, values: np.ndarray, first: int
) -> pa.Table:
    n = len(rows)
    return pa.table(
        {
            "kind": pa.array([kind] * n, pa.string()),
            "role": pa.array([role] * n, pa.string()),
            "direction": pa.array(np.full(n, direction), pa.int32()),
            "side": pa.array([side] * n, pa.string()),
            "position": pa.array(np.arange(first, first + n), pa.int32()),
            "row": pa.array(rows, pa.int64()),
            "trace_id": pa.nulls(n, pa.string()),
            "cosine": pa.array(values.astype(np.float32), pa.float32()),
            "norm": pa.array(np.zeros(n), pa.float32()),
        },
        schema=SELECTION_SCHEMA,
    )
