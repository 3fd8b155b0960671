"""The law: --layers, --scale and --rank-by mean what they say: numpy on the chosen, scaled matrix gives the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.matrices import Exact, direction_errors, power_law, rounded, write_store, wrong_lists

import skillaxes
from skillaxes.errors import StoreError, UsageError
from skillaxes.run_folder.schema import RANKINGS
from skillaxes.run_folder.scores import read_scores

IDS, HIDDEN = (3, 7, 11, 15, 19), 40
SOLVERS = ["krylov", "covariance"]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Five layers of very different scales."""
    made = power_law(900, len(IDS) * HIDDEN, exponent=0.4, mean=8)
    return rounded(made * np.repeat([1, 3, 0.2, 10, 1.5], HIDDEN), "float32")


def columns_of(layers: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.arange(HIDDEN) + IDS.index(layer) * HIDDEN for layer in sorted(layers)])


@pytest.fixture(params=["flat", "layered", "compressed"])
def store(request: pytest.FixtureRequest, tmp_path: Path, rows: np.ndarray) -> Path:
    if request.param == "compressed":
        import zarr

        path = write_store(tmp_path / "store", rows, compressed=True, chunk_rows=97)
        zarr.open_array(path, mode="r+").attrs.update({"layer_ids": list(IDS), "hidden": HIDDEN})
        return path
    return write_store(
        tmp_path / "store", rows, layer_ids=IDS, hidden=HIDDEN, layered=request.param == "layered", chunk_rows=97
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("layers", [(7,), (3, 7), (3, 19), (19, 7, 3), IDS])
def test_layers(store: Path, rows: np.ndarray, layers: tuple[int, ...], solver: str) -> None:
    """One, adjacent ones, distant ones, in any order: the columns in the store's order."""
    exact = Exact(rows[:, columns_of(layers)])
    found = skillaxes.discover(store, components=6, layers=layers, solver=solver)
    assert found.directions.components.shape == (6, len(layers) * HIDDEN)
    assert direction_errors(found.directions.components, exact.components[:6]).max() <= 1e-6
    assert not wrong_lists(found, exact, k=6)
    said = found.manifest["layers"]
    assert said["ids"] == sorted(layers)
    energy = (exact.components[:6].reshape(6, len(layers), HIDDEN) ** 2).sum(axis=2)
    np.testing.assert_allclose(said["direction_energy"], energy, atol=1e-5)
    variance = exact.rows.var(axis=0).reshape(len(layers), HIDDEN).sum(axis=1)
    np.testing.assert_allclose(said["variance_share"], variance / variance.sum(), rtol=1e-5)
    same = skillaxes.discover(skillaxes.open_store(store, layers=layers), components=6, solver=solver)
    np.testing.assert_array_equal(same.directions.components, found.directions.components)


def test_unknown_layers(store: Path, tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(StoreError, match=r"layer 4 is not in .*; its layers are 3, 7, 11, 15, 19"):
        skillaxes.discover(store, tmp_path / "run", layers=(3, 4))
    nameless = write_store(tmp_path / "nameless", rows)
    with pytest.raises(StoreError, match="--layer-ids and --hidden"):
        skillaxes.discover(nameless, tmp_path / "run", layers=(3,))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", ["layer-rms", "column-std"])
@pytest.mark.parametrize("layers", [None, (3, 15)])
def test_scale(store: Path, rows: np.ndarray, scale: str, layers: tuple[int, ...] | None, solver: str) -> None:
    used = rows if layers is None else rows[:, columns_of(layers)]
    variance = used.var(axis=0, ddof=1)
    if scale == "layer-rms":
        variance = np.repeat(variance.reshape(-1, HIDDEN).mean(axis=1), HIDDEN)
    exact = Exact(used / np.sqrt(variance))
    found = skillaxes.discover(store, components=6, scale=scale, layers=layers, solver=solver)
    assert found.directions.scale is not None
    np.testing.assert_allclose(found.directions.scale, 1 / np.sqrt(variance), rtol=1e-5)
    assert direction_errors(found.directions.components, exact.components[:6]).max() <= 1e-6
    np.testing.assert_allclose(found.directions.explained_variance, exact.values[:6], rtol=1e-4)
    np.testing.assert_allclose(found.directions.mean, exact.mean, atol=1e-4)
    assert not wrong_lists(found, exact, k=6)
    assert found.manifest["reads"] <= 4.25, "scaling costs one further read, not more"


def test_scaled_constant_columns_stay(tmp_path: Path, rows: np.ndarray) -> None:
    """A column without spread has no factor; neither has a layer without any."""
    made = rows.copy()
    made[:, :HIDDEN] = 1234.567
    made[:, HIDDEN : HIDDEN + 5] = -3.7
    made = rounded(made, "float32")
    store = write_store(tmp_path / "store", made, layer_ids=IDS, hidden=HIDDEN)
    for scale, constant in (("column-std", HIDDEN + 5), ("layer-rms", HIDDEN)):
        for solver in SOLVERS:
            found = skillaxes.discover(store, components=5, scale=scale, solver=solver)
            assert found.directions.scale is not None
            assert (found.directions.scale[:constant] == 1).all()
            exact = Exact(made * found.directions.scale)
            assert direction_errors(found.directions.components, exact.components[:5]).max() <= 1e-6


def test_layer_rms_needs_layers(tmp_path: Path, rows: np.ndarray) -> None:
    store = write_store(tmp_path / "store", rows)
    with pytest.raises(UsageError, match="--layer-ids and --hidden, or type --scale column-std"):
        skillaxes.discover(store, scale="layer-rms")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rank_by", RANKINGS)
def test_rank_by(store: Path, tmp_path: Path, rows: np.ndarray, rank_by: str, solver: str) -> None:
    exact = Exact(rows)
    found = skillaxes.discover(store, tmp_path / "run", components=6, rank_by=rank_by, solver=solver)
    assert not wrong_lists(found, exact, rank_by=rank_by, k=6)
    table = found.topk.to_pydict()
    columns = {"raw-cosine": "cosine", "centered-cosine": "cosine_centered", "projection": "projection"}
    largest = np.abs(exact.scores(exact.components[:6], "projection")).max()
    for name, column in columns.items():
        scores = exact.scores(exact.components[:6], name)
        true = [scores[row, direction] for row, direction in zip(table["row"], table["direction"], strict=True)]
        np.testing.assert_allclose(table[column], true, atol=2e-5 * (largest if name == "projection" else 1))
    for at in range(0, len(table["row"]), 10):
        assert table["position"][at : at + 10] == list(range(10))
        sign = 1 if table["side"][at] == "positive" else -1
        ranked = sign * np.array(table[columns[rank_by]][at : at + 10])
        assert (np.diff(ranked) <= 1e-6).all(), "the most extreme row comes first"


@pytest.mark.parametrize("solver", SOLVERS)
def test_scores_of_every_row(store: Path, tmp_path: Path, rows: np.ndarray, solver: str) -> None:
    exact = Exact(rows)
    skillaxes.discover(store, tmp_path / "run", components=6, solver=solver)
    scores = read_scores(tmp_path / "run")
    assert {name: values.dtype for name, values in scores.items()} == dict.fromkeys(scores, np.float32)
    norms = np.linalg.norm(rows, axis=1)
    projection = exact.scores(exact.components[:6], "projection")
    np.testing.assert_allclose(scores["norm"], norms, rtol=1e-6)
    np.testing.assert_allclose(scores["centered_norm"], np.linalg.norm(rows - exact.mean, axis=1), rtol=1e-5)
    np.testing.assert_allclose(scores["projection"], projection, atol=2e-5 * np.abs(projection).max())


def test_more_rows_than_a_block_of_scores(tmp_path: Path) -> None:
    """Past the 8,192 rows that later passes take at once."""
    rows = rounded(power_law(8192 + 700, 24, exponent=0.5), "float16")
    exact = Exact(rows)
    for solver in SOLVERS:
        found = skillaxes.discover(
            write_store(tmp_path / "store", rows, "float16", chunk_rows=1000),
            tmp_path / solver,
            components=4,
            solver=solver,
        )
        assert not wrong_lists(found, exact, k=4)
        scores = read_scores(tmp_path / solver)
        assert len(scores["norm"]) == len(rows)
        np.testing.assert_allclose(scores["norm"], np.linalg.norm(rows, axis=1), rtol=1e-6)
