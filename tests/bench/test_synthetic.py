"""Law: a recipe is a matrix. The same seed gives the same bytes whatever the workers and however many rows are asked
for, and the matrix has the spectrum, the mean and the huge columns that the recipe promises.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.synthetic import DTYPES, Generator, Recipe, planted_directions, write_store

from skillaxes.store import open_store

WIDE = Recipe(600, 1 << 16)  # blocks of 64 rows


def rows_of(recipe: Recipe, workers: int = 1) -> torch.Tensor:
    return torch.cat(list(Generator(recipe).blocks(workers)))


def test_workers_do_not_change_a_bit() -> None:
    recipe = replace(WIDE, rows=200)
    assert torch.equal(rows_of(recipe, 1), rows_of(recipe, 3))


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 150])
def test_fewer_rows_are_a_prefix(rows: int) -> None:
    longer = rows_of(replace(WIDE, rows=200))
    assert torch.equal(rows_of(replace(WIDE, rows=rows)), longer[:rows])


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    rows_of(Recipe(10, 32), 2)
    assert torch.get_num_threads() == before


def test_seeds_differ() -> None:
    assert not torch.equal(rows_of(Recipe(20, 64)), rows_of(Recipe(20, 64, seed=1)))


def test_spectrum_mean_and_huge_columns() -> None:
    recipe = Recipe(20_000, 128, dtype="float32")
    generator = Generator(recipe)
    rows = rows_of(recipe).double().numpy()
    mean = rows.mean(axis=0)
    centred = rows - mean
    eigenvalues = np.linalg.eigvalsh(centred.T @ centred / (len(rows) - 1))[::-1]
    # Sampling error of an eigenvalue is about sqrt(2 / n) = 1% of it; the tail is not quite orthogonal to the head.
    np.testing.assert_allclose(eigenvalues[:10], generator.eigenvalues[:10], rtol=0.1)
    assert eigenvalues.sum() == pytest.approx(128, rel=0.05)
    spread = np.sqrt((centred**2).sum(axis=1).mean())
    assert np.linalg.norm(mean) / spread == pytest.approx(recipe.mean_ratio, rel=0.05)
    largest = np.argsort(-np.abs(mean))[: len(generator.huge_columns)]
    assert set(largest) == set(generator.huge_columns)
    assert (mean[largest] ** 2).sum() / (mean**2).sum() > 0.9


def test_a_flat_spectrum_is_flat() -> None:
    rows = rows_of(Recipe(20_000, 16, dtype="float32", spectrum="flat")).double().numpy()
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.T))
    assert eigenvalues.max() / eigenvalues.min() < 1.2


@pytest.mark.parametrize(("rows", "columns"), [(300, 200), (150, 400)])
def test_planted_directions_are_those_of_the_rows(rows: int, columns: int) -> None:
    recipe = Recipe(rows, columns, dtype="float32", spectrum="planted")
    matrix = rows_of(recipe).double().numpy()
    _, singular, v = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    directions, eigenvalues = planted_directions(recipe, 8)
    assert (1 - np.abs((directions * v[:8]).sum(axis=1))).max() < 1e-10
    np.testing.assert_allclose(eigenvalues, singular[:8] ** 2 / (rows - 1), rtol=1e-5)


def test_only_planted_directions_are_known_beforehand() -> None:
    with pytest.raises(ValueError, match="only a planted one"):
        planted_directions(Recipe(10, 20), 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_store_holds_the_rows(tmp_path: Path, dtype: str) -> None:
    recipe = Recipe(130, 48, dtype=dtype)
    write_store(recipe, tmp_path / "a.zarr", workers=2)
    store = open_store(tmp_path / "a.zarr")
    assert (store.n_rows, store.n_features, store.dtype) == (130, 48, dtype)
    rows = torch.from_numpy(store.read_rows(0, 130).copy())
    rows = rows.view(torch.bfloat16) if dtype == "bfloat16" else rows
    assert torch.equal(rows, rows_of(recipe))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0, "columns": 4}, "at least 1 row"),
        ({"rows": 4, "columns": 4, "spectrum": "steep"}, "is not one of power, flat, planted"),
        ({"rows": 4, "columns": 4, "dtype": "int8"}, "is not one of float16"),
    ],
)
def test_a_recipe_is_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**options)
