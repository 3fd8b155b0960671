"""The law: directions, variances and lists are those of numpy's float64 eigenvectors, whatever the store looks like.

1 - |cos| <= 1e-6, explained variance within 1e-4 and the same ten rows at every end, for every dtype, layout and
chunking, with every implementation of the products; on real activations in at most 3.25 reads, and within 5e-5 when
only two are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from support.matrices import (
    REAL,
    SAMPLE_STORE,
    TORCH,
    Exact,
    direction_errors,
    power_law,
    rounded,
    said,
    write_store,
    wrong_lists,
)

import skillaxes

K = 10


def assert_exact(found: skillaxes.Discovery, exact: Exact, *, error: float = 1e-6, variance: float = 1e-4) -> None:
    """Directions with their signs, variances, shares, mean and all lists."""
    directions = found.directions
    assert directions.components.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(directions.components, axis=1), 1, atol=1e-6)
    assert direction_errors(directions.components, exact.components[:K]).max() <= error
    assert ((directions.components * exact.components[:K]).sum(axis=1) > 0).all(), "a sign is turned"
    np.testing.assert_allclose(directions.explained_variance, exact.values[:K], rtol=variance)
    np.testing.assert_allclose(
        directions.explained_variance_ratio, exact.values[:K] / exact.total_variance, rtol=variance
    )
    degrees = len(exact.counted) - 1
    np.testing.assert_allclose(directions.singular_values, np.sqrt(exact.values[:K] * degrees), rtol=variance)
    assert np.linalg.norm(directions.mean - exact.mean) <= 1e-6 * max(1.0, float(np.linalg.norm(exact.mean)))
    assert not wrong_lists(found, exact)


SHAPES = {"tall": (1500, 250), "wide": (260, 900)}


@pytest.fixture(scope="module")
def exact_of() -> dict[tuple[str, str], Exact]:
    """Exact answers, made once."""
    return {
        (shape, dtype): Exact(rounded(power_law(*SHAPES[shape], exponent=0.6), dtype))
        for shape in SHAPES
        for dtype in TORCH
    }


@pytest.mark.usefixtures("cpu_backend")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("solver", ["krylov", "covariance"])
def test_every_dtype(
    tmp_path: Path, exact_of: dict[tuple[str, str], Exact], shape: str, dtype: str, solver: str
) -> None:
    exact = exact_of[shape, dtype]
    store = write_store(tmp_path / "store", exact.rows, dtype, chunk_rows=97)
    found = skillaxes.discover(store, solver=solver)
    assert_exact(found, exact)
    assert found.manifest["solver"]["converged"]
    assert found.manifest["reads"] <= 3.25


LAYOUTS = {
    "chunks that do not divide the rows": {"chunk_rows": 101},
    "one chunk": {"chunk_rows": 1500},
    "a row a chunk": {"chunk_rows": 1},
    "shards": {"chunk_rows": 50, "shard_size": 50 * 250 * 2 * 4},
    "layers": {"chunk_rows": 97, "layered": True, "hidden": 50},
    "layers in shards": {"chunk_rows": 64, "layered": True, "hidden": 50, "shard_size": 64 * 250 * 2 * 3},
    "compressed": {"chunk_rows": 97, "compressed": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path: Path, exact_of: dict[tuple[str, str], Exact], layout: str) -> None:
    exact = exact_of["tall", "float16"]
    store = write_store(tmp_path / "store", exact.rows, "float16", **LAYOUTS[layout])
    found = skillaxes.discover(store, solver="krylov")
    assert_exact(found, exact)
    plain = found.manifest["plan"]["read_path"] == "plain files"
    assert plain is (layout != "compressed"), "the read path that this layout is here for was not taken"


@pytest.mark.usefixtures("cpu_backend", "n_threads")
@pytest.mark.parametrize("solver", ["krylov", "covariance"])
@pytest.mark.parametrize("steepness", [1e2, 1e4, 1e6])
def test_steep_spectra(tmp_path: Path, solver: str, steepness: float) -> None:
    """Two leading eigenvalues far above the others must not blur them (float32 products would)."""
    rows = power_law(1500, 300, exponent=0.6, leading=(steepness**0.5, steepness**0.5 / 1.5))
    exact = Exact(rounded(rows, "float32"))
    found = skillaxes.discover(write_store(tmp_path / "store", rows, chunk_rows=200), solver=solver)
    assert found.manifest["solver"]["converged"]
    assert_exact(found, exact)


@pytest.mark.usefixtures("cpu_backend", "n_threads")
def test_incremental_says_how_exact_it_is(tmp_path: Path, exact_of: dict[tuple[str, str], Exact]) -> None:
    """One read is less exact; what it reports of itself is true."""
    exact = exact_of["tall", "float32"]
    store = write_store(tmp_path / "store", exact.rows, chunk_rows=97)
    found = skillaxes.discover(store, solver="incremental")
    assert direction_errors(found.directions.components, exact.components[:K]).max() <= 1e-3
    assert found.manifest["reads"] == 2
    converged = found.manifest["solver"]["converged"]
    assert converged == bool((found.directions.residuals <= 1e-3).all())
    remark = said(found, "not_converged")
    assert (remark is None) is converged
    assert remark is None or "--solver krylov" in remark["text"]


needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here")


@dataclass(frozen=True)
class Certified(Exact):
    """Leading directions of a matrix too large for a dense solver in a test: block Krylov in float64, with proof."""

    @cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        centered = self.rows - self.mean
        block = np.linalg.qr(np.random.default_rng(0).standard_normal((centered.shape[1], 64)))[0]
        basis, products = block, np.empty((len(block), 0))
        for _ in range(6):
            product = centered.T @ (centered @ block)
            products = np.hstack([products, product])
            block = product - basis @ (basis.T @ product)
            block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
            basis = np.hstack([basis, block])
        basis = basis[:, : products.shape[1]]
        inner = basis.T @ products
        values, turn = np.linalg.eigh((inner + inner.T) / 2)
        values, turn = values[::-1][:K], turn[:, ::-1][:, :K]
        vectors = basis @ turn
        residuals = np.linalg.norm(products @ turn - vectors * values, axis=0)
        gaps = np.abs(np.diff(values)).min()
        assert residuals.max() <= 1e-7 * gaps, "the reference itself is not exact"
        return values / (len(centered) - 1), vectors.T


@pytest.fixture(scope="module")
def real() -> Certified:
    return Certified(np.load(REAL).astype(np.float64))


@needs_real
def test_real_activations(tmp_path: Path, real: Certified) -> None:
    store = write_store(tmp_path / "store", real.rows, "float16", layer_ids=(3, 7, 11, 15, 19, 23, 26, 28), hidden=576)
    found = skillaxes.discover(store)
    assert_exact(found, real)
    assert found.manifest["reads"] <= 3.25
    two = skillaxes.discover(store, max_reads=2)
    assert two.manifest["reads"] == 2
    assert direction_errors(two.directions.components, real.components).max() <= 5e-5


@needs_real
@pytest.mark.parametrize("layout", ["bfloat16", "layered", "ragged"])
def test_real_activations_in_other_stores(tmp_path: Path, real: Certified, layout: str) -> None:
    dtype = "bfloat16" if layout == "bfloat16" else "float16"
    options = {"layered": True, "hidden": 576} if layout == "layered" else {"chunk_rows": 331}
    exact = Certified(rounded(real.rows, dtype)) if layout == "bfloat16" else real
    found = skillaxes.discover(write_store(tmp_path / "store", real.rows, dtype, **options))
    assert_exact(found, exact)
    assert found.manifest["reads"] <= 3.25


@pytest.mark.usefixtures("cpu_backend", "n_threads")
def test_the_sample_in_the_repository() -> None:
    import zarr

    exact = Exact(np.asarray(zarr.open_array(SAMPLE_STORE, mode="r")[...], np.float64).reshape(1000, -1))
    found = skillaxes.discover(SAMPLE_STORE)
    assert_exact(found, exact)
    assert found.manifest["reads"] <= 3.25
