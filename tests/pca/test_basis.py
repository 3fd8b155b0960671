"""The law: a basis is orthonormal, new to what was there, and loses dependent columns instead of inventing directions.

Rayleigh-Ritz on a rounded, oblique basis gives the eigenpairs of the matrix on its span.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillaxes.pca.base import signs
from skillaxes.pca.orthonormal import gram, orthonormalize, rough_orthonormal
from skillaxes.pca.rayleigh_ritz import rayleigh_ritz, whiten


def random(d: int, b: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((d, b), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("spread", [0, 8])
def test_orthonormal_and_of_the_same_span(scale: float, spread: int) -> None:
    block = random(9000, 12) * 10.0 ** torch.linspace(-spread, spread, 12) * scale
    found = orthonormalize(block)
    assert found.shape == block.shape
    assert (gram(found, found) - torch.eye(12)).abs().max() <= 1e-12
    unit = block / torch.linalg.vector_norm(block, dim=0)
    assert (unit - found @ (found.T @ unit)).abs().max() <= 1e-10


def test_dependent_columns_are_dropped() -> None:
    block = random(300, 5)
    double = torch.cat([block, block @ random(5, 7, 1), torch.zeros((300, 2), dtype=torch.float64)], dim=1)
    assert orthonormalize(double).shape == (300, 5)
    assert orthonormalize(torch.zeros((300, 3), dtype=torch.float64)).shape == (300, 0)
    assert rough_orthonormal(double.float()).shape == (300, 5)
    assert rough_orthonormal(torch.zeros((300, 3))).shape == (300, 0)


def test_only_what_is_new() -> None:
    """Against blocks that are orthonormal to float16's precision only, with zero columns among them."""
    first = orthonormalize(random(400, 10)).half().float()
    first = torch.cat([first, torch.zeros((400, 2))], dim=1)
    second = orthonormalize(random(400, 10, 1), [first]).half().float()
    mixed = torch.cat([first[:, :10].double(), random(400, 6, 2)], dim=1)
    found = orthonormalize(mixed, [first, second])
    assert found.shape[1] == 6
    assert (gram(first, found)).abs().max() <= 1e-10
    assert (gram(second, found)).abs().max() <= 1e-3, "the blocks themselves are oblique to each other"
    assert (gram(found, found) - torch.eye(6)).abs().max() <= 1e-12
    assert orthonormalize(first.double(), [first]).shape[1] == 0


def test_rayleigh_ritz_on_an_oblique_basis() -> None:
    d, b = 60, 8
    exact = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
    matrix = torch.from_numpy(exact * 0.7 ** np.arange(d) @ exact.T)
    span = torch.from_numpy(exact[:, :b].copy())
    basis = (
        (span @ random(b, b)).half().double()
    )  # rounded: spans nearly the leading eigenvectors, and is far from orthonormal
    basis = torch.cat([basis, torch.zeros((d, 3), dtype=torch.float64), basis[:, :2]], dim=1)
    pairs = rayleigh_ritz(basis.T @ matrix @ basis, whiten(basis.T @ basis))
    assert len(pairs.values) == b, "zero and double columns are dropped"
    vectors = basis @ pairs.weights
    assert (vectors.T @ vectors - torch.eye(b)).abs().max() <= 1e-9
    orthonormal = np.linalg.qr(basis[:, :b].numpy())[0]
    true = np.linalg.eigvalsh(orthonormal.T @ matrix.numpy() @ orthonormal)[::-1]
    np.testing.assert_allclose(pairs.values, true, rtol=1e-10)


def test_signs() -> None:
    """scikit-learn's V-based rule: the entry of largest magnitude is positive."""
    directions = torch.tensor([[0.1, -3.0, 2.0], [0.5, 0.2, -0.1], [0.0, 0.0, -1.0]])
    assert signs(directions).tolist() == [-1, 1, -1]
    assert signs(torch.zeros((1, 3))).tolist() == [1]
    assert signs(directions.double()).dtype == torch.float64
