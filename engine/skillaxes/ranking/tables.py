"""The tables ``topk.parquet`` and ``selection.parquet``, and the rows in them gathered from all processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from skillaxes.cluster.world import World
from skillaxes.pca.projections import BLOCK_ROWS
from skillaxes.pca.row_scores import RowBlock, RowScores
from skillaxes.ranking.scores import SCORES
from skillaxes.ranking.topk import Ranking, certified_members
from skillaxes.run_folder import schema
from skillaxes.run_folder.schema import SELECTION_COLUMNS, SIDES, TOPK_COLUMNS
from skillaxes.run_folder.tables import arrow_schema, booleans, numbers, repeated_texts, texts

SAMPLE_ROWS = 20_000  # rows of the `sample` role; a smaller store is sampled whole
MIDDLE_ROWS = 50  # rows a direction from the quantiles in between
TraceIds = Callable[[Sequence[int]], Sequence[str | None]]


class RowLookup(Protocol):
    """Scores and norms of rows by their numbers."""

    def at(self, rows: np.ndarray) -> RowBlock:
        """Scores of some rows, in the order of their global numbers ``rows`` (n,), int64."""

    def norms(self, rows: np.ndarray) -> np.ndarray:
        """|x| of some rows, by their global numbers, of shape (n,), float32."""


@dataclass(frozen=True)
class GatheredRows:
    """Scores of the rows in the tables, gathered from all processes.

    Attributes
    ----------
    rows : ndarray of shape (n,), int64, ascending
    block : scores of these rows on the k components
    norm_rows, norm : ndarrays of shape (m,), int64 ascending and float32: rows with a norm in the tables, and the norms
    """

    rows: np.ndarray
    block: RowBlock
    norm_rows: np.ndarray
    norm: np.ndarray

    def at(self, rows: np.ndarray) -> RowBlock:
        """Scores of some of the rows, in the order of their global numbers."""
        place = torch.from_numpy(np.searchsorted(self.rows, rows))
        block = self.block
        return RowBlock(
            -1,
            block.projection[place],
            block.raw[place],
            block.norm[place],
            block.centered_norm[place],
            block.bad[place],
        )

    def norms(self, rows: np.ndarray) -> np.ndarray:
        """|x| of some of the rows, by their global numbers."""
        return self.norm[np.searchsorted(self.norm_rows, rows)]


def topk_table(lookup: RowLookup, ranking: Ranking, angles: Tensor, top: int, trace_ids: TraceIds) -> pa.Table:
    """The table of ``topk.parquet``: the ``top`` rows of both sides of every component.

    Parameters
    ----------
    lookup : scores of the rows in the table
    ranking : lists of at least ``top`` rows and, where there is one, a runner-up
    angles : Tensor of shape (k,), float64, radians: bounds on the angles to the exact directions
    trace_ids : ids of some rows by their global numbers
    """
    parts = []
    values: dict[str, list[np.ndarray]] = {"raw": [], "centered": [], "projection": [], "certified": []}
    for direction, angle in enumerate(angles.tolist()):
        for side in SIDES:
            one_side = getattr(ranking.lists, side)
            rows = _present(one_side.rows[direction, :top])
            scores = one_side.values[direction] * (1 if side == schema.POSITIVE else -1)
            scaled = SCORES[ranking.rank_by].to_cosine(scores, ranking.largest_norm)
            has_runner_up = len(_present(one_side.rows[direction])) > len(rows)
            runner_up = float(scaled[len(rows)]) if has_runner_up else -np.inf
            block = lookup.at(rows)
            values["certified"].append(certified_members(scaled[: len(rows)], runner_up, angle).numpy())
            values["raw"].append(SCORES[schema.RAW_COSINE].of(block)[:, direction].numpy())
            values["centered"].append(SCORES[schema.CENTERED_COSINE].of(block)[:, direction].numpy())
            values["projection"].append(block.projection[:, direction].numpy())
            parts.append(_Part(schema.COMPONENT, schema.SHOWN, direction, side, rows))
    found = {name: np.concatenate(columns) for name, columns in values.items()}
    rows = np.concatenate([part.rows for part in parts])
    columns = {
        "direction": _each(parts, [part.direction for part in parts]),
        "side": _each_text(parts, [part.side for part in parts]),
        "position": numbers(np.concatenate([part.positions for part in parts]), pa.int32()),
        "row": numbers(rows, pa.int64()),
        "trace_id": texts(trace_ids(rows.tolist())),
        "cosine": numbers(found["raw"], pa.float32()),
        "cosine_centered": numbers(found["centered"], pa.float32(), np.isnan(found["centered"])),
        "projection": numbers(found["projection"], pa.float32()),
        "certified": booleans(found["certified"]),
    }
    arrow = arrow_schema(TOPK_COLUMNS)
    return pa.Table.from_arrays([columns[name] for name in arrow.names], schema=arrow)


def selection_table(
    lookup: RowLookup,
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
    """The table of ``selection.parquet``, the input of labeling.

    Parameters
    ----------
    lookup : scores and norms of the rows in the table
    ranking : lists of at least max(top, pool) rows
    n_components, n_rows : k, and the rows of the store
    top : rows of a side in the role ``shown``
    pool : rows of a side in the roles ``shown`` and ``held_out`` together
    seed : seed of the sample of rows
    trace_ids : ids of some rows by their global numbers
    meta : further entries of the metadata of the table
    """
    parts = []
    for index in range(len(ranking.lists.positive.rows)):
        kind, direction = (schema.COMPONENT, index) if index < n_components else (schema.RANDOM, index - n_components)
        for side in SIDES:
            one_side = getattr(ranking.lists, side)
            rows = _present(one_side.rows[index, : max(top, pool)])
            values = one_side.values[index, : len(rows)].numpy()
            parts.append(_Part(kind, schema.SHOWN, direction, side, rows[:top], values[:top]))
            parts.append(_Part(kind, schema.HELD_OUT, direction, side, rows[top:], values[top:], top))
    parts += _sampled(lookup, ranking, n_components, n_rows, max(top, pool), seed)
    rows = np.concatenate([part.rows for part in parts])
    unique, inverse = np.unique(rows, return_inverse=True)
    columns = {
        "kind": _each_text(parts, [part.kind for part in parts]),
        "role": _each_text(parts, [part.role for part in parts]),
        "direction": _each(parts, [part.direction for part in parts]),
        "side": _each_text(parts, [part.side for part in parts]),
        "position": numbers(np.concatenate([part.positions for part in parts]), pa.int32()),
        "row": numbers(rows, pa.int64()),
        "trace_id": texts(trace_ids(unique.tolist()), inverse),
        "cosine": numbers(np.concatenate([part.values for part in parts]), pa.float32()),
        "norm": numbers(lookup.norms(rows), pa.float32()),
    }
    about = {"n_rows": n_rows, "rank_by": ranking.rank_by, "top": top, "pool": pool, **meta}
    arrow = arrow_schema(SELECTION_COLUMNS).with_metadata(
        {schema.SELECTION_META: json.dumps(about, sort_keys=True).encode()}
    )
    return pa.Table.from_arrays([columns[name] for name in arrow.names], schema=arrow)


def listed_rows(
    ranking: Ranking, n_components: int, n_rows: int, top: int, pool: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows in the tables, ascending, int64.

    Returns
    -------
    scored : ndarray: rows whose scores the tables hold or are computed from
    normed : ndarray: rows whose norms ``selection.parquet`` holds
    """
    sample = sample_rows(n_rows, seed)
    lists = [getattr(ranking.lists, side).rows for side in SIDES]
    ends = [_present(rows[:n_components, :top].flatten()) for rows in lists]
    members = [_present(rows[:, : max(top, pool)].flatten()) for rows in lists]
    return _distinct(np.concatenate([*ends, sample])), _distinct(np.concatenate([*members, sample]))


def gather_rows(
    row_scores: RowScores, rows: np.ndarray, norm_rows: np.ndarray, n_components: int, world: World
) -> RowLookup:
    """Gather scores and norms of some rows from the processes that hold them.

    Parameters
    ----------
    row_scores : scores of the rows of this process
    rows : ndarray of shape (n,), int64, ascending: rows to gather scores of, the same in every process
    norm_rows : ndarray of shape (m,), int64, ascending: rows to gather norms of, the same in every process
    """
    if world.world_size == 1:
        return row_scores
    mine, also = _own(row_scores, rows), _own(row_scores, norm_rows)
    blocks = [row_scores.at(part) for part in np.array_split(mine, max(1, -(-len(mine) // BLOCK_ROWS)))]
    parts = world.all_gather_object(
        (
            torch.cat([block.projection[:, :n_components] for block in blocks]),
            torch.cat([block.raw[:, :n_components] for block in blocks]),
            torch.cat([block.norm for block in blocks]),
            torch.cat([block.centered_norm for block in blocks]),
            torch.cat([block.bad for block in blocks]),
        )
    )
    columns = [torch.cat([part[number] for part in parts]) for number in range(5)]
    norms = np.concatenate(world.all_gather_object(row_scores.norms(also)))
    return GatheredRows(rows, RowBlock(-1, *columns), norm_rows, norms)


def sample_rows(n_rows: int, seed: int) -> np.ndarray:
    """Rows of the role ``sample``: at most SAMPLE_ROWS random ones, ascending, int64."""
    if n_rows <= SAMPLE_ROWS:
        return np.arange(n_rows)
    rng = np.random.default_rng([seed, n_rows, SAMPLE_ROWS])
    return np.sort(rng.choice(n_rows, SAMPLE_ROWS, replace=False))


@dataclass(frozen=True)
class _Part:
    """Rows of a table that differ in row, position and value only."""

    kind: str
    role: str
    direction: int
    side: str | None
    rows: np.ndarray
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    first: int = 0

    @property
    def positions(self) -> np.ndarray:
        return np.arange(self.first, self.first + len(self.rows))


def _sampled(lookup: RowLookup, ranking: Ranking, n_components: int, n_rows: int, pool: int, seed: int) -> list[_Part]:
    """Rows of the roles ``sample`` and ``middle`` of every component."""
    rows = sample_rows(n_rows, seed)
    blocks = [lookup.at(part) for part in np.array_split(rows, -(-len(rows) // BLOCK_ROWS))]
    scores = torch.cat([SCORES[ranking.rank_by].of(block)[:, :n_components] for block in blocks]).numpy()
    rankable = torch.cat([SCORES[ranking.rank_by].rankable(block) for block in blocks]).numpy()
    rows, scores = rows[rankable], scores[rankable]
    parts = []
    for direction in range(n_components):
        values = scores[:, direction]
        parts.append(_Part(schema.COMPONENT, schema.SAMPLE, direction, None, rows, values))
        ends = np.concatenate([_present(getattr(ranking.lists, side).rows[direction, :pool]) for side in SIDES])
        inner = np.flatnonzero(~np.isin(rows, ends))
        inner = inner[np.argsort(values[inner], kind="stable")]
        places = _distinct(np.linspace(0, len(inner) - 1, min(MIDDLE_ROWS, len(inner))).astype(np.int64))
        chosen = inner[places]
        parts.append(_Part(schema.COMPONENT, schema.MIDDLE, direction, None, rows[chosen], values[chosen]))
    return parts


def _own(row_scores: RowScores, rows: np.ndarray) -> np.ndarray:
    """The rows of this process among ``rows``."""
    return rows[(rows >= row_scores.first_row) & (rows < row_scores.first_row + row_scores.n_rows)]


def _present(rows: Tensor) -> np.ndarray:
    """Rows of a list without its empty places, which are -1."""
    found = rows.numpy()
    return found[found >= 0]


def _distinct(numbers: np.ndarray) -> np.ndarray:
    """Distinct numbers, ascending. ``np.unique`` imports numpy.ma, which takes longer than sorting them."""
    return torch.unique(torch.from_numpy(numbers)).numpy()


def _each(parts: list[_Part], values: list[int]) -> pa.Array:
    """A column of int32 with one of ``values`` for all rows of each part."""
    return numbers(np.repeat(values, [len(part.rows) for part in parts]), pa.int32())


def _each_text(parts: list[_Part], values: Sequence[str | None]) -> pa.Array:
    """A column of strings with one of ``values`` for all rows of each part."""
    return repeated_texts(values, [len(part.rows) for part in parts])
