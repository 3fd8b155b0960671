"""The law: ``split_half`` is what two random halves of the rows give when each is solved by itself.

From the kept projections alone it can only see the basis; on data whose directions matter that is no difference.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.matrices import Exact, power_law, rounded, said, write_store

import skillaxes
from skillaxes.pca.stability import GROUPS, SPLITS, matched, row_groups, subspaces

K = 6


def by_hand(rows: np.ndarray, good: np.ndarray, seed: int, k: int) -> np.ndarray:
    """|cos| between the exact directions of the halves that the solver took, each matched to one of the whole's."""
    whole = Exact(rows, good)
    groups = row_groups(seed, 0, len(rows))
    rng = np.random.default_rng([seed, GROUPS])
    cosines = np.zeros(k)
    for _ in range(SPLITS):
        chosen = np.zeros(GROUPS, bool)
        chosen[rng.permutation(GROUPS)[: GROUPS // 2]] = True
        halves = []
        for part in (chosen[groups], ~chosen[groups]):
            found = Exact(rows, good & part).components[: k + 10]
            similar = np.abs(whole.components[:k] @ found.T)
            place = np.zeros(k, int)
            for _ in range(k):
                row, column = np.unravel_index(similar.argmax(), similar.shape)
                place[row] = column
                similar[row], similar[:, column] = -1, -1
            halves.append(found[place])
        cosines += np.abs((halves[0] * halves[1]).sum(axis=1)) / SPLITS
    return cosines


@pytest.mark.parametrize("solver", ["krylov", "covariance"])
@pytest.mark.parametrize("skip", [False, True])
def test_two_halves(tmp_path: Path, solver: str, skip: bool) -> None:
    rows = rounded(power_law(1500, 120, exponent=0.5, leading=(3, 2, 1.2, 1.15)), "float32")
    good = np.ones(1500, bool)
    if skip:
        good[::7] = False
        rows[~good, 3] = np.nan
    store = write_store(tmp_path / "store", rows)
    found = skillaxes.discover(store, components=K, solver=solver, seed=5, bad_rows="skip" if skip else "error")
    true = by_hand(rows, good, 5, K)
    assert true.min() < 0.9 < true.max(), "the matrix is here to show both"
    np.testing.assert_allclose(found.directions.split_half, true, atol=0.03)
    np.testing.assert_allclose(found.directions.split_half[true > 0.99], true[true > 0.99], atol=1e-3)
    remark = said(found, "stability")
    assert remark is not None
    weak = [i for i, value in enumerate(found.directions.split_half) if value < 0.9]
    assert remark["values"]["sample_dependent"] == weak
    assert f"directions {', '.join(map(str, weak))} are sample-dependent" in remark["text"]


def test_groups_are_random_even_and_blind_to_cuts() -> None:
    groups = row_groups(3, 0, 40_000)
    counts = np.bincount(groups, minlength=GROUPS)
    assert counts.sum() == 40_000 and len(counts) == GROUPS
    assert (np.abs(counts - 2000) < 5 * np.sqrt(2000)).all()
    np.testing.assert_array_equal(np.concatenate([row_groups(3, 0, 777), row_groups(3, 777, 40_000)]), groups)
    assert (row_groups(4, 0, 40_000) == groups).mean() < 0.1, "the seed changes nothing"
    neighbours = np.corrcoef(groups[:-1], groups[1:])[0, 1]
    assert abs(neighbours) < 0.02
    far = row_groups(3, 2**40, 2**40 + 1000)
    assert far.min() >= 0 and far.max() < GROUPS, "row numbers are 64-bit"


def test_matching_gives_every_direction_its_own() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.1], [0.95, 0.2, 0.1]])
    assert matched(similarity).tolist() == [1, 0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        places = matched(torch.rand((5, 9), generator=generator))
        assert len(set(places.tolist())) == 5


def test_nearly_equal_eigenvalues_are_one_subspace() -> None:
    values = torch.tensor([10.0, 5.0, 4.9, 4.8, 1.0], dtype=torch.float64)
    errors = torch.full((5,), 0.1, dtype=torch.float64)
    assert subspaces(values, errors) == [[0], [1, 2, 3], [4]]
    assert subspaces(values, 0 * errors) == [[0], [1], [2], [3], [4]]
    assert subspaces(values[:1], errors[:1]) == [[0]]


def test_equal_directions_are_said_to_be_one_subspace(tmp_path: Path) -> None:
    """A plane of equal variance: its directions are arbitrary, and the manifest says that they belong together.

    Not of every sample: neighbouring eigenvalues of a sample repel each other.
    """
    together = 0
    for seed in range(16):
        rows = power_law(2000, 80, exponent=1.0, leading=(5, 2, 2), seed=seed)
        found = skillaxes.discover(write_store(tmp_path / "store", rows), components=4)
        assert found.manifest["directions"][0]["subspace"] == [0]
        assert found.directions.split_half[0] > 0.98
        remark = said(found, "stability")
        assert remark is not None
        assert remark["values"]["subspaces"] in ([], [[1, 2]])
        if remark["values"]["subspaces"]:
            assert found.manifest["directions"][1]["subspace"] == [1, 2] == found.manifest["directions"][2]["subspace"]
            assert "1-2" in remark["text"]
            together += 1
    assert together >= 11


def test_different_directions_stand_alone(tmp_path: Path) -> None:
    for seed in range(4):
        rows = power_law(2000, 80, exponent=1.0, leading=(5, 2, 1.7), seed=seed)
        found = skillaxes.discover(write_store(tmp_path / "store", rows), components=4)
        assert [one["subspace"] for one in found.manifest["directions"]] == [[0], [1], [2], [3]]
