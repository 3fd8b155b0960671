"""The law: a degenerate, unevenly sampled or badly scaled matrix gets right answers, or a word of what is wrong.

What the warm start has not seen is found all the same; what cannot be told apart is not called certified; what means
nothing is said to mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.matrices import (
    Exact,
    angles,
    bounds,
    direction_errors,
    extremes,
    listed,
    power_law,
    rounded,
    said,
    write_store,
    wrong_lists,
)

import skillaxes
from skillaxes.errors import InputError
from skillaxes.stream.panels import sample_segments

SOLVERS = ["krylov", "covariance"]


def unsampled(n_rows: int, n_sample: int = 1536) -> list[tuple[int, int]]:
    """(start, stop) of the stretches between the segments of the warm start's sample."""
    segments = sample_segments(n_rows, n_sample, 0)
    ends = [0, *(stop for _, stop in segments)]
    starts = [*(start for start, _ in segments), n_rows]
    return [(end, start) for end, start in zip(ends, starts, strict=True) if start > end]


@pytest.mark.parametrize("where", ["block", "scattered", "end"])
def test_a_direction_that_the_sample_misses(tmp_path: Path, where: str) -> None:
    """Rows that no segment of the sample touches carry a direction of their own: a block, 0.3% of them, the last."""
    n, d = 8000, 256
    rng = np.random.default_rng(1)
    rows = power_law(n, d, exponent=0.6, mean=20, seed=3)
    planted = np.linalg.qr(rng.standard_normal((d, 1)))[0][:, 0]
    free = unsampled(n)
    if where == "scattered":
        at = rng.choice(np.concatenate([np.arange(*part) for part in free]), 24, replace=False)
    else:
        at = np.arange(*(free[-1] if where == "end" else max(free, key=lambda part: part[1] - part[0])))
    rows[at] += np.outer(rng.standard_normal(len(at)) * 8, planted)
    exact = Exact(rounded(rows, "float16"))
    assert np.abs(exact.components[:10] @ planted).max() > 0.7, "the planted direction must matter"
    found = skillaxes.discover(write_store(tmp_path / "store", rows, "float16", chunk_rows=300), solver="krylov")
    assert found.manifest["solver"]["converged"]
    assert direction_errors(found.directions.components, exact.components[:10]).max() <= 1e-6
    assert not wrong_lists(found, exact)
    assert found.manifest["reads"] <= 4


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_without_variance(tmp_path: Path, solver: str) -> None:
    """All rows are equal but for fifteen that the sample misses."""
    rows = np.tile(power_law(1, 200, mean=50), (5000, 1))
    free = np.concatenate([np.arange(*part) for part in unsampled(5000)])
    at = np.random.default_rng(0).choice(free, 15, replace=False)
    rows[at] = power_law(15, 200, exponent=0.5, mean=50)
    exact = Exact(rounded(rows, "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", rows, chunk_rows=300), components=5, solver=solver)
    assert direction_errors(found.directions.components, exact.components[:5]).max() <= 1e-6
    assert not wrong_lists(found, exact, k=5)


def spectrum(n: int, deviations: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows whose sample covariance has exactly these eigenvalues, about a mean of 3 in every column."""
    noise = np.random.default_rng(seed).standard_normal((n, len(deviations)))
    left, _, right = np.linalg.svd(noise - noise.mean(axis=0), full_matrices=False)
    return left * (deviations * np.sqrt(n - 1)) @ right + 3


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_nearly_equal_eigenvalues(tmp_path: Path, solver: str, gap: float) -> None:
    """Directions 2 and 3, 8 and 9 nearly share an eigenvalue: their planes are exact, the bound admits the turn."""
    deviations = (1.0 + np.arange(200)) ** -0.6
    deviations[3], deviations[9] = deviations[2] * (1 - gap), deviations[8] * (1 - gap)
    exact = Exact(rounded(spectrum(1500, deviations), "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", exact.rows), solver=solver)
    components = found.directions.components.astype(np.float64)
    for plane in ([2, 3], [8, 9]):
        inside = np.linalg.svd(components[plane] @ exact.components[plane].T)[1]
        assert 1 - inside.min() <= 1e-6
    alone = [0, 1, 4, 5, 6, 7]
    assert direction_errors(components[alone], exact.components[alone]).max() <= 1e-6
    assert (bounds(found) >= angles(components, exact.components[:10])).all()
    assert not wrong_lists(found, exact, certified_only=True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_flat_spectrum(tmp_path: Path, solver: str) -> None:
    """Noise has no leading directions: nothing is called certified that is not, and missing convergence is said."""
    rows = np.random.default_rng(0).standard_normal((1200, 200))
    exact = Exact(rounded(rows, "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", rows), solver=solver, max_reads=3)
    true = angles(found.directions.components, exact.components[:10])
    assert (bounds(found) >= true).all()
    assert not wrong_lists(found, exact, certified_only=True)
    solved = found.manifest["solver"]
    assert solved["converged"] == (solver == "covariance")
    remark = said(found, "not_converged")
    assert (remark is None) == solved["converged"]
    if remark is not None:
        assert "--max-reads" in remark["text"]
        assert solved["max_residual"] > 1e-3
        certified = sum(sum(one["certified"].values()) for one in found.manifest["directions"])
        assert certified < 200, "every member is called certified, although the directions are not"
    stability = said(found, "stability")
    assert stability is not None and stability["values"]["sample_dependent"], "noise is not reproducible"


@pytest.mark.parametrize("solver", [*SOLVERS, "incremental"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("n", [30, 1200])
def test_fewer_dimensions_than_components(tmp_path: Path, solver: str, dtype: str, n: int) -> None:
    """Rank four, ten asked for: four are exact, six are said to mean nothing."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, 4)) @ rng.standard_normal((4, 200)) + 3
    exact = Exact(rounded(rows, dtype))
    found = skillaxes.discover(write_store(tmp_path / "store", rows, dtype), solver=solver)
    assert direction_errors(found.directions.components[:4], exact.components[:4]).max() <= 1e-6
    assert not wrong_lists(found, exact, k=4)
    np.testing.assert_allclose(found.directions.components @ found.directions.components.T, np.eye(10), atol=1e-5)
    remark = said(found, "no_variance")
    assert remark is not None
    assert remark["values"]["directions"] == [4, 5, 6, 7, 8, 9]
    assert "--components 4" in remark["text"]


@pytest.mark.parametrize("solver", [*SOLVERS, "incremental", "auto"])
@pytest.mark.parametrize("n", [2, 3, 5, 10, 19, 20])
def test_few_rows(tmp_path: Path, solver: str, n: int) -> None:
    """Two to twenty rows, as many components as rows: n - 1 directions exist, the last one is said to mean nothing."""
    exact = Exact(rounded(power_law(n, 60, exponent=0.3, mean=5), "float32"))
    store = write_store(tmp_path / "store", exact.rows)
    top = n // 2
    found = skillaxes.discover(store, components=n, top=top, solver=solver)
    k = n - 1
    assert direction_errors(found.directions.components[:k], exact.components[:k]).max() <= 1e-6
    np.testing.assert_allclose(found.directions.explained_variance[:k], exact.values[:k], rtol=1e-4)
    assert not wrong_lists(found, exact, k=k, top=top)
    assert (bounds(found)[:k] >= angles(found.directions.components[:k], exact.components[:k])).all()
    remark = said(found, "no_variance")
    assert remark is not None and remark["values"]["directions"] == [k]


@pytest.mark.parametrize("solver", [*SOLVERS, "incremental", "auto"])
@pytest.mark.parametrize("d", [2, 3, 7, 20])
def test_few_columns(tmp_path: Path, solver: str, d: int) -> None:
    """As many components as columns. Cosines crowd at 1 there: a list may differ where it says so."""
    exact = Exact(rounded(power_law(600, d, exponent=0.3, mean=5), "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", exact.rows), components=d, solver=solver)
    assert direction_errors(found.directions.components, exact.components).max() <= 1e-6
    assert not wrong_lists(found, exact, k=d, certified_only=True)
    assert np.abs(found.topk["cosine"].to_numpy()).max() <= 1


def test_one_column(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 1)) + 0.5
    for solver in SOLVERS:
        found = skillaxes.discover(write_store(tmp_path / "store", rows), components=1, top=5, solver=solver)
        assert found.directions.components.tolist() == [[1.0]]
        np.testing.assert_allclose(found.directions.explained_variance, rows.var(ddof=1), rtol=1e-5)
        assert set(np.sign(found.topk["cosine"].to_numpy())) == {1.0, -1.0}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("constant", [0.0, 3.7, 1234.567])
def test_constant_columns(tmp_path: Path, solver: str, constant: float) -> None:
    rows = power_law(800, 200, exponent=0.6, mean=5)
    rows[:, ::2] = constant
    exact = Exact(rounded(rows, "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", rows), solver=solver)
    assert direction_errors(found.directions.components, exact.components[:10]).max() <= 1e-6
    assert np.abs(found.directions.components[:, ::2]).max() <= 1e-5
    assert not wrong_lists(found, exact, certified_only=True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_rows_have_no_directions(tmp_path: Path, solver: str) -> None:
    rows = np.tile(power_law(1, 200, mean=50), (300, 1))
    with pytest.raises(InputError, match="rows"):
        skillaxes.discover(write_store(tmp_path / "store", rows), tmp_path / "run", solver=solver)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_of_zeros_only(tmp_path: Path, solver: str) -> None:
    with pytest.raises(InputError, match="equal"):
        skillaxes.discover(write_store(tmp_path / "store", np.zeros((300, 64))), solver=solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_duplicates_tie_to_the_lower_row(tmp_path: Path, solver: str) -> None:
    """Three hundred rows come three times each, far apart and in no order: lists, positions included, are float64's."""
    distinct = power_law(300, 150, exponent=0.6, mean=5)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(300), 3))
    exact = Exact(rounded(distinct[order], "float16"))
    found = skillaxes.discover(write_store(tmp_path / "store", exact.rows, "float16", chunk_rows=37), solver=solver)
    assert not wrong_lists(found, exact)
    for rank_by in ("raw-cosine", "centered-cosine", "projection"):
        ranked = skillaxes.discover(tmp_path / "store", solver=solver, rank_by=rank_by)
        for direction in range(10):
            for side in ("positive", "negative"):
                rows = listed(ranked.topk, direction, side)
                groups = [rows[at : at + 3] for at in range(0, 9, 3)]
                assert all(group == sorted(group) for group in groups), "equal rows are not in their order"
                assert all(len(set(order[group])) == 1 for group in groups), "a copy is missing"
                last = np.flatnonzero(order == order[rows[9]])
                assert rows[9] == last[0], "of equal rows the lowest comes first"


def test_extremes_of_the_reference() -> None:
    """The reference itself: ties to the lower row, NaN never."""
    scores = np.array([1.0, np.nan, 3.0, 3.0, -2.0, -2.0])
    assert extremes(scores, 3, "positive") == [2, 3, 0]
    assert extremes(scores, 3, "negative") == [4, 5, 0]
