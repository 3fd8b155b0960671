"""Law: the exact answer is exact. Three independent ways agree: numpy's singular vectors of the dense matrix, the dense
way and the Krylov way here; lists follow the definition, ties by row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench import reference
from bench.panels import Rows
from bench.ranking import ends, with_signs
from bench.synthetic import Recipe, planted_directions, write_store


def by_numpy(path: Path, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions, eigenvalues and raw cosines, the shortest way."""
    rows = Rows(path)
    matrix = rows.read(0, rows.n_rows).double().numpy()
    _, singular, v = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    directions = with_signs(torch.from_numpy(v[:components])).numpy()
    cosines = matrix @ directions.T / np.linalg.norm(matrix, axis=1, keepdims=True)
    return directions, singular[: components + 1] ** 2 / (len(matrix) - 1), cosines


@pytest.mark.parametrize("method", ["dense", "krylov"])
@pytest.mark.parametrize(("rows", "columns"), [(700, 96), (90, 200), (41, 40)])
@pytest.mark.parametrize("spectrum", ["power", "flat"])
def test_all_ways_agree(tmp_path: Path, method: str, rows: int, columns: int, spectrum: str) -> None:
    path = tmp_path / "a.zarr"
    write_store(Recipe(rows, columns, spectrum=spectrum), path)
    directions, eigenvalues, cosines = by_numpy(path, 5)
    found = reference.exact(path, 5, 4, method)
    assert found.residuals.max() < 1e-9
    assert ((found.directions - directions) ** 2).sum(axis=1).max() / 2 < 1e-12
    np.testing.assert_allclose(found.eigenvalues, eigenvalues[:5], rtol=1e-9)
    assert found.next_eigenvalue == pytest.approx(eigenvalues[5], rel=1e-2)
    assert found.total_variance > eigenvalues.sum()
    order = np.argsort(-cosines, axis=0, kind="stable")
    np.testing.assert_array_equal(found.positive, order[:4].T)
    np.testing.assert_array_equal(found.negative, np.argsort(cosines, axis=0, kind="stable")[:4].T)


def test_planted_directions_are_found(tmp_path: Path) -> None:
    recipe = Recipe(400, 300, dtype="float32", spectrum="planted")
    write_store(recipe, tmp_path / "a.zarr")
    found = reference.exact(tmp_path / "a.zarr", 6, 5, "krylov")
    directions, eigenvalues = planted_directions(recipe, 6)
    assert (1 - np.abs((directions * found.directions).sum(axis=1))).max() < 1e-10
    np.testing.assert_allclose(found.eigenvalues, eigenvalues, rtol=1e-5)


def test_it_is_kept_beside_the_store(small_store: Path) -> None:
    first = reference.exact(small_store, 3, 5)
    kept = reference.path_of(small_store, 3, 5)
    assert kept.exists()
    again = reference.Reference.load(kept)
    np.testing.assert_array_equal(first.directions, again.directions)
    assert (first.method, first.total_variance) == (again.method, again.total_variance)


def test_captured_variance_is_that_of_the_span(small_store: Path) -> None:
    exact = reference.exact(small_store, 3, 5)
    mixed = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [3.0, 0.0, 1.0]]) @ exact.directions
    assert reference.captured(small_store, mixed, exact) == pytest.approx(1, abs=1e-10)
    fewer = np.vstack([exact.directions[:2], np.eye(exact.directions.shape[1])[:1]])
    assert reference.captured(small_store, fewer, exact) < 1 - 1e-3


def test_a_krylov_run_that_cannot_end_says_so(small_store: Path) -> None:
    with pytest.raises(ArithmeticError, match="stalled at a residual"):
        reference.exact(small_store, 3, 5, "krylov", tolerance=1e-30)


def test_ties_go_to_the_lower_row_and_invalid_rows_are_left_out() -> None:
    cosines = torch.tensor([[0.5], [0.7], [0.5], [0.7], [-0.1], [-0.1]], dtype=torch.float64)
    positive, negative = ends(cosines, 3)
    assert positive.tolist() == [[1, 3, 0]]
    assert negative.tolist() == [[4, 5, 0]]
    valid = torch.tensor([True, False, True, True, False, True])
    positive, negative = ends(cosines, 2, valid)
    assert positive.tolist() == [[3, 0]]
    assert negative.tolist() == [[5, 0]]


def test_signs_make_the_largest_entry_positive() -> None:
    signed = with_signs(torch.tensor([[1.0, -3.0], [2.0, 1.0]], dtype=torch.float64))
    assert (signed[0, 1] > 0) and (signed[1, 0] > 0)
    torch.testing.assert_close(signed.norm(dim=1), torch.ones(2, dtype=torch.float64))
