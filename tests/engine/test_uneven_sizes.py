"""The law: rows and columns of very different sizes, up to the ends of the floats, cost no digits; or it is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.matrices import Exact, angles, bounds, direction_errors, power_law, rounded, said, write_store, wrong_lists

import skillaxes
from skillaxes.errors import InputError, SkillaxesError, StoreError

SOLVERS = ["krylov", "covariance"]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("length", [1e-2, 1e-4, 1e-20])
def test_rows_much_shorter_than_the_mean(tmp_path: Path, solver: str, length: float) -> None:
    """Their cosines are as exact as any: what cancels is computed again from the rows."""
    rows = power_law(900, 200, exponent=0.6, mean=50)
    rng = np.random.default_rng(0)
    rows[[3, 700]] = rng.standard_normal((2, 200)) * length
    exact = Exact(rounded(rows, "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", rows), solver=solver)
    assert not wrong_lists(found, exact)
    scores = exact.scores(exact.components[:10])
    table = found.topk.to_pydict()
    true = [scores[row, direction] for row, direction in zip(table["row"], table["direction"], strict=True)]
    np.testing.assert_allclose(table["cosine"], true, atol=2e-5)


def test_many_short_rows_cost_a_read(tmp_path: Path) -> None:
    """Half the rows are short: one further read makes them exact, and the manifest counts it."""
    rng = np.random.default_rng(0)
    rows = power_law(4000, 64, exponent=0.6, mean=50)
    rows[::2] = 1e-3 * power_law(2000, 64, exponent=0.3, mean=1, seed=9)
    rows = rows[rng.permutation(4000)]
    exact = Exact(rounded(rows, "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", rows, chunk_rows=300), components=5)
    assert found.manifest["reads"] == found.manifest["solver"]["reads"] + 2  # the covariance's own, and this one
    scores = exact.scores(exact.components[:5])
    table = found.topk.to_pydict()
    true = [scores[row, direction] for row, direction in zip(table["row"], table["direction"], strict=True)]
    np.testing.assert_allclose(table["cosine"], true, atol=2e-5)
    assert not wrong_lists(found, exact, k=5, certified_only=True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_row_on_the_mean(tmp_path: Path, solver: str) -> None:
    """A row that is the mean, as near as float32 comes, has no centred cosine to speak of and leads no list."""
    rows = power_law(1200, 200, exponent=0.6, mean=50)
    for _ in range(30):
        rows[10] = rounded(rows.mean(axis=0)[None], "float32")
    exact = Exact(rounded(rows, "float32"))
    store = write_store(tmp_path / "store", rows)
    found = skillaxes.discover(store, solver=solver, rank_by="centered-cosine")
    assert 10 not in found.topk["row"].to_pylist()
    assert not wrong_lists(found, exact, rank_by="centered-cosine")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("factor", [30.0, 1000.0])
def test_huge_columns(tmp_path: Path, solver: str, factor: float) -> None:
    rows = power_law(1200, 200, exponent=0.6, mean=50)
    rows[:, 7] *= factor
    rows[:, 90] *= factor / 3
    exact = Exact(rounded(rows, "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", rows), solver=solver)
    assert found.manifest["solver"]["converged"]
    assert direction_errors(found.directions.components, exact.components[:10]).max() <= 1e-6
    assert not wrong_lists(found, exact)


@pytest.mark.parametrize("solver", SOLVERS)
def test_values_at_the_end_of_float16(tmp_path: Path, solver: str) -> None:
    """65,504 is the largest float16, 6e-8 the smallest: sums and squares are far outside, results are not."""
    rows = power_law(800, 200, exponent=0.6, mean=50)
    for scaled in (rows / np.abs(rows).max() * 65504, rows * 1e-5):
        exact = Exact(rounded(scaled, "float16"))
        found = skillaxes.discover(write_store(tmp_path / "store", scaled, "float16"), solver=solver)
        assert direction_errors(found.directions.components, exact.components[:10]).max() <= 1e-6
        np.testing.assert_allclose(found.directions.explained_variance, exact.values[:10], rtol=1e-4)
        assert not wrong_lists(found, exact)


@pytest.mark.parametrize("solver", [*SOLVERS, "incremental"])
@pytest.mark.parametrize(("dtype", "factor"), [("float32", 1e30), ("float64", 1e200), ("float32", 1e-25)])
def test_values_whose_squares_leave_float32(tmp_path: Path, solver: str, dtype: str, factor: float) -> None:
    """Right, or refused with a message that does not speak of NaN where there is none."""
    rows = power_law(300, 80, exponent=0.6, mean=5) * factor
    store = write_store(tmp_path / "store", rows, dtype)
    try:
        found = skillaxes.discover(store, components=4, solver=solver)
    except SkillaxesError as error:
        assert isinstance(error, (StoreError, InputError)) and "NaN" not in str(error)
        assert "float32" in str(error)
        return
    exact = Exact(rounded(rows / factor, dtype))
    assert direction_errors(found.directions.components, exact.components[:4]).max() <= 1e-5


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_float32_cannot_resolve_is_said(tmp_path: Path, solver: str) -> None:
    """One column a hundred thousand times the others: the job ends, bounds hold, rough residuals are announced."""
    rows = power_law(1200, 200, exponent=0.6, mean=50)
    rows[:, 7] *= 1e5
    exact = Exact(rounded(rows, "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", rows), solver=solver, tolerance=1e-5)
    assert (bounds(found) >= angles(found.directions.components, exact.components[:10])).all()
    assert found.directions.residuals.max() > 1e-5, "float32 resolves it: the matrix is not hard enough"
    remarks = [said(found, kind) for kind in ("precision", "not_converged")]
    assert sum(remark is not None for remark in remarks) == 1
    assert (remarks[0] is not None) == found.manifest["solver"]["converged"]
