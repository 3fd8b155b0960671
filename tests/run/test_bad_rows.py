"""The law: a row with NaN or infinity is an error that names it, or, when told so, as if it had never been there.

A row of zeros has no cosine: it counts for mean and covariance, is counted, and is in no list, however rows are ranked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.matrices import (
    Exact,
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
from skillaxes.errors import BadRowsError, InputError
from skillaxes.run_folder.schema import RANKINGS, SELECTION, SIDES
from skillaxes.run_folder.scores import read_scores

SOLVERS = ["krylov", "covariance", "incremental"]
N, D = 2100, 130

# First panel, last panel, in the sample or not, single rows and runs.
PLACES = {
    "first": [0],
    "last": [N - 1],
    "both ends and a run": [0, 1, 2, *range(700, 760), N - 2, N - 1],
    "a whole panel": list(range(1024, 2048)),
    "all of the sample's segments": [],
}


def spoiled(bad: list[int], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    rows = rounded(power_law(N, D, exponent=0.6, seed=seed), dtype)
    for number, row in enumerate(bad):
        rows[row, (number * 37) % D] = (np.nan, np.inf, -np.inf)[number % 3]
    return rows


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", [[0], [N - 1], [5, 700, 701], list(range(0, N, 7))])
def test_bad_rows_are_named(tmp_path: Path, solver: str, bad: list[int]) -> None:
    store = write_store(tmp_path / "store", spoiled(bad), chunk_rows=97)
    with pytest.raises(BadRowsError, match="--bad-rows skip") as caught:
        skillaxes.discover(store, tmp_path / "run", solver=solver)
    message = str(caught.value)
    assert "\n" not in message and f"row {bad[0]:,}" in message
    assert caught.value.rows[0] == bad[0]
    assert set(caught.value.rows) <= set(bad)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_bad_rows_in_every_dtype(tmp_path: Path, dtype: str) -> None:
    rows = rounded(power_law(300, 40), dtype)
    rows[17, 3], rows[200, 0] = np.nan, np.inf
    store = write_store(tmp_path / "store", rows, dtype)
    with pytest.raises(BadRowsError, match="row 17, 200"):
        skillaxes.discover(store)
    found = skillaxes.discover(store, bad_rows="skip")
    assert found.manifest["rows"]["bad"] == [17, 200]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("place", PLACES)
def test_skipped_rows_were_never_there(tmp_path: Path, solver: str, place: str) -> None:
    """Directions, lists and scores equal those of the store without these rows, row numbers kept."""
    from skillaxes.stream.panels import sample_segments

    bad = PLACES[place] or [start for start, _ in sample_segments(N, 1536, 0)]
    rows = spoiled(bad)
    good = np.isfinite(rows).all(axis=1)
    assert (~good).sum() == len(bad)
    number = np.flatnonzero(good)
    exact = Exact(rows, good)
    options = {"solver": solver, "tolerance": 1e-5}
    store = write_store(tmp_path / "store", rows, chunk_rows=97)
    skipped = skillaxes.discover(store, tmp_path / "run", bad_rows="skip", **options)
    without = skillaxes.discover(write_store(tmp_path / "without", rows[good], chunk_rows=97), **options)
    assert skipped.manifest["rows"] == {"total": N, "ranked": len(number), "zero": 0, "bad": bad}
    remark = said(skipped, "bad_rows")
    assert remark is not None and remark["text"].startswith(f"{len(bad):,} rows")
    np.testing.assert_allclose(skipped.directions.explained_variance, without.directions.explained_variance, rtol=1e-4)
    if solver != "incremental":
        assert direction_errors(skipped.directions.components, exact.components[:10]).max() <= 1e-6
        np.testing.assert_allclose(skipped.directions.mean, exact.mean, atol=1e-5)
        assert not wrong_lists(skipped, exact)
        for direction in range(10):
            for side in SIDES:
                kept = number[listed(without.topk, direction, side)].tolist()
                assert listed(skipped.topk, direction, side) == kept
    scores = read_scores(tmp_path / "run")
    for values in scores.values():
        assert np.isnan(values[bad]).all() and np.isfinite(values[number]).all()


def test_bad_rows_are_in_no_table(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    bad = PLACES["both ends and a run"]
    store = write_store(tmp_path / "store", spoiled(bad), chunk_rows=97)
    skillaxes.discover(store, tmp_path / "run", bad_rows="skip")
    selection = pq.read_table(tmp_path / "run" / SELECTION)
    assert not set(selection["row"].to_pylist()) & set(bad)
    assert np.isfinite(selection["cosine"].to_numpy()).all()


@pytest.mark.parametrize("scale", ["column-std"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_skipped_rows_and_scaled_columns(tmp_path: Path, solver: str, scale: str) -> None:
    bad = PLACES["both ends and a run"]
    rows = spoiled(bad)
    good = np.isfinite(rows).all(axis=1)
    store = write_store(tmp_path / "store", rows, chunk_rows=97)
    with pytest.raises(BadRowsError):
        skillaxes.discover(store, solver=solver, scale=scale)
    found = skillaxes.discover(store, solver=solver, scale=scale, bad_rows="skip")
    assert found.directions.scale is not None
    np.testing.assert_allclose(found.directions.scale, 1 / rows[good].std(axis=0, ddof=1), rtol=1e-5)
    assert found.manifest["rows"]["bad"] == bad


@pytest.mark.parametrize("left", [0, 1])
def test_hardly_a_row_left(tmp_path: Path, left: int) -> None:
    rows = power_law(20, 8)
    rows[left:] = np.nan
    store = write_store(tmp_path / "store", rows)
    for solver in SOLVERS:
        with pytest.raises(BadRowsError, match="at least 2"):
            skillaxes.discover(store, tmp_path / "run", components=1, top=1, bad_rows="skip", solver=solver)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("solver", SOLVERS)
def test_more_components_than_rows_left(tmp_path: Path, solver: str) -> None:
    rows = power_law(20, 40)
    rows[3:] = np.nan
    store = write_store(tmp_path / "store", rows)
    with pytest.raises(InputError, match="components"):
        skillaxes.discover(store, tmp_path / "run", components=10, top=1, bad_rows="skip", solver=solver)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("cause", ["nan", "zero"])
def test_lists_never_overlap(tmp_path: Path, cause: str) -> None:
    """20 rows allow ten at each end; with 13 of them left they do not, and that shows only after a read."""
    rows = power_law(20, 12)
    rows[5:12] = np.nan if cause == "nan" else 0
    store = write_store(tmp_path / "store", rows)
    with pytest.raises(InputError, match=r"--top 10: of 20 rows 13 can be ranked .* type --top 6 or less"):
        skillaxes.discover(store, tmp_path / "run", components=3, bad_rows="skip")
    assert not (tmp_path / "run").exists()
    found = skillaxes.discover(store, tmp_path / "run", components=3, top=6, bad_rows="skip")
    for direction in range(3):
        ends = [listed(found.topk, direction, side) for side in SIDES]
        assert not set(ends[0]) & set(ends[1])


@pytest.mark.parametrize("rank_by", RANKINGS)
@pytest.mark.parametrize("solver", ["krylov", "covariance"])
def test_rows_of_zeros(tmp_path: Path, rank_by: str, solver: str) -> None:
    """With a mean near zero their projections would lead no list anyway: so the mean is large here, and they would."""
    rows = power_law(600, 80, exponent=0.6, mean=30)
    zero = [0, 5, *range(100, 140), 599]
    rows[zero] = 0
    exact = Exact(rounded(rows, "float32"))
    found = skillaxes.discover(
        write_store(tmp_path / "store", rows), tmp_path / "run", components=6, solver=solver, rank_by=rank_by
    )
    assert direction_errors(found.directions.components, exact.components[:6]).max() <= 1e-6, "zeros are rows too"
    assert found.manifest["rows"] == {"total": 600, "ranked": 600 - len(zero), "zero": len(zero), "bad": []}
    assert not wrong_lists(found, exact, rank_by=rank_by, k=6)
    plain = (exact.rows - exact.mean) @ exact.components[0]
    assert set(extremes(plain, 10, "positive") + extremes(plain, 10, "negative")) & set(zero)
    remark = said(found, "zero_rows")
    assert remark is not None and remark["text"].startswith(f"{len(zero)} rows of zeros")
    scores = read_scores(tmp_path / "run")
    assert (scores["norm"][zero] == 0).all() and np.isfinite(scores["projection"]).all()
