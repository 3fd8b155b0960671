"""The law: the exact direction lies within the angle bound; where the trace bounds the rest, whatever the spectrum.

In exact arithmetic first, on random symmetric matrices and random subspaces, also absurd ones; then through the whole
solver, where float32 and an estimated rest come in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.matrices import Exact, angles, bounds, power_law, rounded, write_store, wrong_lists

import skillaxes
from skillaxes.pca.rayleigh_ritz import NUMERICAL_FLOOR, angle_bounds

ROWS = 10**12  # so many that rounding plays no part


def spectrum(kind: str, d: int, k: int, rng: np.random.Generator) -> np.ndarray:
    values = {
        "even": rng.random(d),
        "geometric": np.exp(-rng.uniform(0, 1) * np.arange(d)),
        "cluster": np.r_[1 + rng.uniform(-0.1, 0.1, k), rng.uniform(0, 0.3) * rng.random(d - k)],
        "six decades": 10 ** rng.uniform(-6, 0, d),
    }[kind]
    return np.sort(np.abs(values))[::-1]


@pytest.mark.parametrize("kind", ["even", "geometric", "cluster", "six decades"])
def test_in_exact_arithmetic(kind: str) -> None:
    """Fifteen hundred matrices and subspaces of each kind; hypothesis finds the rare ones too rarely."""
    rng = np.random.default_rng(0)
    certain = 0
    for _ in range(1500):
        d = int(rng.integers(3, 30))
        r = int(rng.choice([d, d - 1, rng.integers(1, d + 1)]))
        k = int(rng.integers(1, min(r, 5) + 1))
        exact = np.linalg.qr(rng.standard_normal((d, d)))[0]
        matrix = exact * spectrum(kind, d, k, rng) @ exact.T
        near = exact[:, :r] + 10 ** rng.uniform(-3, 0.5) * rng.standard_normal((d, r)) / np.sqrt(d)
        basis = np.linalg.qr(near if rng.random() < 0.7 else matrix @ rng.standard_normal((d, r)))[0]
        values, turn = np.linalg.eigh(basis.T @ matrix @ basis)
        values, vectors = values[::-1].copy(), basis @ turn[:, ::-1]
        residuals = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
        total = float(np.trace(matrix))
        found = angle_bounds(torch.from_numpy(values), torch.from_numpy(residuals), k, total, r, ROWS)
        true = angles(vectors[:, :k].T, exact[:, :k].T)
        assert (found.radians <= np.pi / 2).all()
        if found.rigorous:
            certain += 1
            held = found.radians.numpy() >= true - 1e-9
            assert held.all(), f"{found.radians.tolist()} does not hold {true.tolist()}"
    assert certain > 500, "the bound was hardly ever called rigorous: nothing is tested"


def test_it_is_tight() -> None:
    """A bound of 90 degrees would always hold. With a clear gap it is the true angle, up to its second order."""
    rng = np.random.default_rng(0)
    d, r, k = 60, 20, 5
    exact = np.linalg.qr(rng.standard_normal((d, d)))[0]
    matrix = exact * 0.5 ** np.arange(d) @ exact.T
    basis = np.linalg.qr(exact[:, :r] + 1e-3 * rng.standard_normal((d, r)))[0]
    values, turn = np.linalg.eigh(basis.T @ matrix @ basis)
    values, vectors = values[::-1].copy(), basis @ turn[:, ::-1]
    residuals = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
    found = angle_bounds(torch.from_numpy(values), torch.from_numpy(residuals), k, float(np.trace(matrix)), r, ROWS)
    true = angles(vectors[:, :k].T, exact[:, :k].T)
    assert found.rigorous
    assert (found.radians.numpy() >= true).all()
    assert (found.radians.numpy() <= 1.2 * true).all()


def test_nothing_known_is_a_right_angle() -> None:
    values, none = torch.ones(4, dtype=torch.float64), torch.full((4,), 0.3, dtype=torch.float64)
    assert (angle_bounds(values, none, 2, 5.0, 4, ROWS).radians == torch.pi / 2).all(), "equal eigenvalues"
    assert (angle_bounds(values, 0 * none, 2, 5.0, 4, ROWS).radians == torch.pi / 2).all()
    steep = torch.tensor([1.0, 0.1, 0.01, 0.001], dtype=torch.float64)
    certain = angle_bounds(steep, 0 * none, 2, float(steep.sum()), 4, ROWS)
    assert certain.rigorous
    np.testing.assert_allclose(certain.radians, NUMERICAL_FLOOR, rtol=0.1)


SPECTRA = {
    "power law": lambda i: (1.0 + i) ** -0.6,
    "slow": lambda i: (1.0 + i) ** -0.1,
    "gap inside the wanted": lambda i: np.where(i < 4, 1.0, 0.2) * (1 - 0.003 * i),
    "gap behind the wanted": lambda i: np.where(i < 10, 1.0, 0.5) * (1 - 0.003 * i),
    "stairs": lambda i: 0.5 ** (i // 7) * (1 - 1e-4 * (i % 7)),
    "pairs": lambda i: (1.0 + i // 2) ** -0.4 * (1 - 1e-3 * (i % 2)),
    "flat": lambda i: 1 - 1e-3 * i,
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("solver", ["krylov", "covariance", "incremental"])
def test_through_the_solver(tmp_path: Path, name: str, solver: str) -> None:
    """Two reads, many reads, a loose tolerance: the bound holds, and what is certified is in float64's list.

    An end is compared only where the direction's sign is beyond doubt.
    """
    deviations = SPECTRA[name](np.arange(150))
    noise = np.random.default_rng(3).standard_normal((1200, 150))
    left, _, right = np.linalg.svd(noise - noise.mean(axis=0), full_matrices=False)
    exact = Exact(rounded(left * deviations * 35 @ right + 2, "float16"))
    store = write_store(tmp_path / "store", exact.rows, "float16")
    for options in ({"max_reads": 2}, {"tolerance": 0.3}, {}):
        found = skillaxes.discover(store, solver=solver, **options)
        true = angles(found.directions.components, exact.components[:10])
        assert (bounds(found) >= 0.99 * true).all(), f"{bounds(found)} does not hold {true}"
        turned = (found.directions.components * exact.components[:10]).sum(axis=1) < 0
        wrong = wrong_lists(found, exact, certified_only=True)
        assert not [end for end in wrong if not turned[end[0]]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("n", [40, 400, 4000])
def test_rounding(tmp_path: Path, dtype: str, n: int) -> None:
    """Converged, only rounding is left: the bound admits it where eigenvalues nearly meet, and is small where not."""
    deviations = (1.0 + np.arange(30)) ** -0.7
    for at in (2, 5, 8):
        deviations[at] = deviations[at - 1] * (1 - 10.0 ** -(at // 2 + 2))
    noise = np.random.default_rng(0).standard_normal((n, 30))
    left, _, right = np.linalg.svd(noise - noise.mean(axis=0), full_matrices=False)
    exact = Exact(rounded(left * deviations * 20 @ right + 3, dtype))
    found = skillaxes.discover(write_store(tmp_path / "store", exact.rows, dtype), tolerance=1e-6)
    true = angles(found.directions.components, exact.components[:10])
    assert (bounds(found) >= true).all(), f"{bounds(found)} does not hold {true}"
    apart = np.abs(np.diff(exact.values[:11])) / exact.values[:10]
    clear = (apart > 0.02) & (np.r_[1, apart[:-1]] > 0.02)
    assert clear.any() and (bounds(found)[clear] <= 1e-4).all()


def test_residuals_are_true(tmp_path: Path) -> None:
    """||C v - lambda v|| / lambda as reported, against the same in float64 on the directions that were found."""
    exact = Exact(rounded(power_law(2000, 300, exponent=0.4), "float16"))
    store = write_store(tmp_path / "store", exact.rows, "float16")
    centered = exact.rows - exact.mean
    for options in ({"max_reads": 2}, {"max_reads": 3}, {"solver": "incremental"}):
        found = skillaxes.discover(store, **{"solver": "krylov", "tolerance": 1e-5, **options})
        directions = found.directions.components.astype(np.float64)
        product = centered.T @ (centered @ directions.T) / (len(centered) - 1)
        values = (product.T * directions).sum(axis=1)
        true = np.linalg.norm(product.T - values[:, None] * directions, axis=1) / values
        assert true.max() > 1e-4, "converged: there is nothing to compare"
        large = true > 1e-4
        np.testing.assert_allclose(found.directions.residuals[large], true[large], rtol=0.03)
