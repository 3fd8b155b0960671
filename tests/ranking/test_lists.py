"""The law: lists, counts and correlations from kept projections are numpy's on the rows themselves, blocks and parts
of the rows notwithstanding.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.matrices import Exact, extremes, power_law

from skillaxes.cluster.world import World
from skillaxes.pca.base import Problem
from skillaxes.pca.projections import BLOCK_ROWS, Projections
from skillaxes.pca.row_moments import RowMoments
from skillaxes.pca.row_scores import KeptRows
from skillaxes.ranking.tables import sample_rows, selection_table, topk_table
from skillaxes.ranking.topk import Ranking, rank
from skillaxes.run_folder.schema import RANKINGS, ROLES, SELECTION_META, SELECTION_SCHEMA, SIDES, TOPK_SCHEMA

K, RANDOM = 3, 2


def keep(rows: np.ndarray, directions: np.ndarray, first: int = 0, mean: np.ndarray | None = None) -> KeptRows:
    """What a job of two reads would have kept of ``rows``, global numbers from ``first`` on; NaN rows are bad."""
    n, d = rows.shape
    bad = ~np.isfinite(rows).all(axis=1)
    safe = np.where(bad[:, None], 0, rows)
    mean = safe[~bad].mean(axis=0) if mean is None else mean
    shift = mean + 0.01
    delta = mean - shift
    relative = np.where(bad[:, None], 0, safe - shift)
    problem = Problem(n, d, len(directions), 16, 1e-3, 2, 0, torch.device("cpu"), 64, torch.float32)
    moments = RowMoments.empty(problem, first, n)
    moments.norm[:] = np.linalg.norm(safe, axis=1)
    moments.shifted_square[:] = (relative**2).sum(axis=1)
    moments.bad[:] = bad
    half = len(directions) // 2
    tables, weights = [], []
    for number, part in enumerate((directions[:half], directions[half:])):
        table = Projections(first, n, len(part) + 1)
        carried = relative @ (shift if number == 0 else delta)
        table.write(first, np.column_stack([relative @ part.T, carried]).astype(np.float32))
        weight = torch.zeros((len(part), len(directions)), dtype=torch.float64)
        at = number * half
        weight[:, at : at + len(part)] = torch.eye(len(part), dtype=torch.float64)
        tables.append(table)
        weights.append(weight)
    return KeptRows(
        moments=moments,
        tables=tuple(tables),
        weights=tuple(weights),
        at_shift=torch.from_numpy(directions @ shift),
        at_delta=torch.from_numpy(directions @ delta),
        delta_square=float(delta @ delta),
        corrected=True,
        directions=torch.from_numpy(directions.T.copy()),
        carrier=1,
    )


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """More than a block, with zeros, bad rows and duplicates."""
    made = power_law(BLOCK_ROWS + 900, 12, exponent=0.3, mean=2).astype(np.float32).astype(np.float64)
    made[[0, 77, BLOCK_ROWS, BLOCK_ROWS + 5]] = 0
    made[[3, BLOCK_ROWS - 1, BLOCK_ROWS + 899], 2] = np.nan
    made[9000:9050] = made[500:550]
    return made


@pytest.fixture(scope="module")
def directions() -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((K + RANDOM, 12))
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def ranked(rows: np.ndarray, directions: np.ndarray, rank_by: str) -> Ranking:
    return rank(keep(rows, directions), K, top=10, depth=30, rank_by=rank_by)


@pytest.mark.parametrize("rank_by", RANKINGS)
def test_lists(rows: np.ndarray, directions: np.ndarray, rank_by: str) -> None:
    exact = Exact(rows, np.isfinite(rows).all(axis=1))
    scores = exact.scores(directions, rank_by)
    found = ranked(rows, directions, rank_by)
    for direction in range(K + RANDOM):
        for side in SIDES:
            listed = getattr(found.lists, side)
            true = extremes(scores[:, direction], 31, side)
            assert listed.rows[direction].tolist() == true
            np.testing.assert_allclose(listed.values[direction], scores[true, direction], atol=1e-5)
    for name, lists in (("raw-cosine", found.raw), ("centered-cosine", found.centered)):
        true_scores = exact.scores(directions, name)
        for direction in range(K):
            for side in SIDES:
                mine = getattr(lists, side).rows[direction].tolist()
                assert mine == extremes(true_scores[:, direction], 10, side)


def test_counts_and_correlations(rows: np.ndarray, directions: np.ndarray) -> None:
    found = ranked(rows, directions, "raw-cosine")
    assert (found.n_zero, found.n_ranked) == (4, len(rows) - 7)
    exact = Exact(rows, np.isfinite(rows).all(axis=1))
    alive = exact.norms > 0
    raw = exact.scores(directions)[alive][:, :K]
    true = [np.corrcoef(raw[:, i], exact.norms[alive])[0, 1] for i in range(K)]
    np.testing.assert_allclose(found.norm_correlation, true, atol=1e-6)
    np.testing.assert_allclose(found.positive_share, (raw > 0).mean(axis=0), atol=1e-6)
    largest = np.linalg.norm(rows[exact.good] - exact.mean, axis=1).max()
    np.testing.assert_allclose(found.largest_norm, largest, rtol=1e-6)


class Two(World):
    """Two processes after each other: the second one is handed what the first one had."""

    def __init__(self, rank: int, other: list[object]) -> None:
        super().__init__(rank=rank, size=2)
        self.other = other

    def gather(self, value: object) -> list:
        self.other.append(copy.deepcopy(value))
        return list(self.other) if self.rank == 1 else [value, copy.deepcopy(value)]  # type: ignore[attr-defined]


def test_two_processes(rows: np.ndarray, directions: np.ndarray) -> None:
    """Each ranks its part; merged, it is the ranking of the whole."""
    whole = ranked(rows, directions, "raw-cosine")
    mean = rows[np.isfinite(rows).all(axis=1)].mean(axis=0)
    cut = 4000
    seen: list[object] = []
    rank(keep(rows[:cut], directions, 0, mean), K, top=10, depth=30, rank_by="raw-cosine", world=Two(0, seen))
    merged = rank(
        keep(rows[cut:], directions, cut, mean), K, top=10, depth=30, rank_by="raw-cosine", world=Two(1, seen)
    )
    for side in SIDES:
        for name in ("lists", "raw", "centered"):
            mine, true = (getattr(getattr(one, name), side) for one in (merged, whole))
            assert torch.equal(mine.rows, true.rows)
    assert (merged.n_zero, merged.n_ranked, merged.largest_norm) == (
        whole.n_zero,
        whole.n_ranked,
        pytest.approx(whole.largest_norm),
    )
    np.testing.assert_allclose(merged.norm_correlation, whole.norm_correlation, atol=1e-9)
    np.testing.assert_allclose(merged.positive_share, whole.positive_share)


def test_topk_table(rows: np.ndarray, directions: np.ndarray) -> None:
    kept = keep(rows, directions)
    ranking = rank(kept, K, top=10, depth=30, rank_by="raw-cosine")
    angles = torch.tensor([0.0, 1e-2, 1.5], dtype=torch.float64)
    asked: list[int] = []

    def ids(numbers: list[int]) -> list[str]:
        asked.extend(numbers)
        return [f"t{number}" for number in numbers]

    table = topk_table(kept, ranking, angles, 10, ids)
    assert table.schema.equals(TOPK_SCHEMA)
    assert table.num_rows == K * 2 * 10 == len(asked)
    assert table["trace_id"].to_pylist() == [f"t{row}" for row in table["row"].to_pylist()]
    certified = np.array(table["certified"].to_pylist()).reshape(K, 20).sum(axis=1)
    assert certified[0] >= 18 and certified[2] == 0 and certified[0] >= certified[1] >= certified[2]


@pytest.mark.parametrize("rank_by", RANKINGS)
def test_selection_table(rows: np.ndarray, directions: np.ndarray, rank_by: str) -> None:
    """Shown and held-out rows are the positions of the list, the middle lies in between, the sample is of all rows."""
    import json

    kept = keep(rows, directions)
    ranking = rank(kept, K, top=10, depth=30, rank_by=rank_by)
    table = selection_table(
        kept,
        ranking,
        n_components=K,
        n_rows=len(rows),
        top=10,
        pool=30,
        seed=0,
        trace_ids=lambda numbers: [str(number) for number in numbers],
        meta={"split_half": [1.0] * K},
    )
    assert table.schema.remove_metadata().equals(SELECTION_SCHEMA)
    about = json.loads(table.schema.metadata[SELECTION_META])
    assert about["rank_by"] == rank_by and about["top"] == 10 and about["pool"] == 30 and about["n_rows"] == len(rows)
    frame = table.to_pydict()
    assert set(frame["role"]) == set(ROLES)
    assert frame["trace_id"] == [str(row) for row in frame["row"]]
    exact = Exact(rows, np.isfinite(rows).all(axis=1))
    np.testing.assert_allclose(frame["norm"], exact.norms[frame["row"]], rtol=1e-5)
    scores = exact.scores(directions, rank_by)
    entries = list(
        zip(*(frame[name] for name in ("kind", "role", "direction", "side", "position", "row")), strict=True)
    )
    for index in range(K + RANDOM):
        kind, number = ("component", index) if index < K else ("random", index - K)
        for side in SIDES:
            at = {
                position: (role, row)
                for one, role, direction, end, position, row in entries
                if (one, direction, end) == (kind, number, side)
            }
            assert sorted(at) == list(range(30))
            assert [at[p][1] for p in range(30)] == extremes(scores[:, index], 30, side)
            assert {at[p][0] for p in range(10)} == {"shown"}
            assert {at[p][0] for p in range(10, 30)} == {"held_out"}
    usable = set(np.flatnonzero(~np.isnan(scores[:, 0])).tolist())
    for direction in range(K):
        ends = {
            row
            for kind, role, one, _, _, row in entries
            if kind == "component" and one == direction and role in ("shown", "held_out")
        }
        middle = [row for kind, role, one, _, _, row in entries if role == "middle" and one == direction]
        sample = [row for kind, role, one, _, _, row in entries if role == "sample" and one == direction]
        assert len(middle) == 50 and not set(middle) & ends
        assert set(sample) == usable, "a store this small is sampled whole"


def test_a_seeded_sample_of_a_large_store() -> None:
    rows = sample_rows(100_000, 3)
    assert len(rows) == 20_000 == len(set(rows.tolist()))
    assert (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < 100_000
    assert not np.array_equal(rows, sample_rows(100_000, 4))
    np.testing.assert_array_equal(rows, sample_rows(100_000, 3))


def test_few_ranked_rows(directions: np.ndarray) -> None:
    """Lists longer than what can be ranked end early, and hold no row twice."""
    rows = power_law(12, 12, exponent=0.3)
    rows[4:9] = 0
    found = rank(keep(rows, directions), K, top=3, depth=20, rank_by="raw-cosine")
    assert found.n_ranked == 7
    for side in SIDES:
        listed = getattr(found.lists, side).rows
        assert (listed[:, 7:] == -1).all()
        assert all(len(set(row[:7].tolist())) == 7 for row in listed)


def test_exact_rows_take_the_place_of_kept_ones(rows: np.ndarray, directions: np.ndarray) -> None:
    from skillaxes.pca.row_scores import ExactRows

    kept = keep(rows, directions)
    some = np.array([5, BLOCK_ROWS - 2, BLOCK_ROWS + 7])
    marks = torch.arange(3, dtype=torch.float64)[:, None].expand(3, K + RANDOM)
    exact = ExactRows(some, marks + 100, marks + 200, marks[:, 0] + 300, marks[:, 0] + 400)
    replaced = replace(kept, exact=exact)
    for block, plain in zip(replaced.blocks(), kept.blocks(), strict=True):
        inside = [row for row in some if block.start <= row < block.start + len(block.norm)]
        for row in inside:
            number = float(np.flatnonzero(some == row)[0])
            at = row - block.start
            assert block.raw[at, 0] == 100 + number and block.projection[at, 0] == 200 + number
            assert block.norm[at] == 300 + number and block.centered_norm[at] == 400 + number
        others = np.setdiff1d(np.arange(len(block.norm)), np.array(inside, int) - block.start)
        assert torch.equal(block.raw[others], plain.raw[others])
        assert torch.equal(block.norm[others], plain.norm[others])
    picked = replaced.at(np.array([BLOCK_ROWS + 7, 6, 5]))
    assert picked.raw[:, 0].tolist()[0] == 102 and picked.raw[2, 0] == 100
    assert torch.equal(picked.raw[1], kept.at(np.array([6])).raw[0])
