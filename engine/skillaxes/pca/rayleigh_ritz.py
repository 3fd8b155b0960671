"""The generalised Rayleigh-Ritz problem on a rounded basis: Ritz pairs, their residuals and angle bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skillaxes.pca.orthonormal import part, parts

DEPENDENT = 1e-5  # eigenvalue of KᵀK, relative to the largest: below it a direction of the basis is dropped
ROUNDING = 4e-7  # of a float32 projection, relative to the row's length; measured over many shapes
NUMERICAL_FLOOR = 1e-6  # radians: rounding of float32 products, which the residual does not show
_TRUSTED = 0.9  # of the k-th eigenvalue: below it the rest of the trace is small enough for a bound


@dataclass(frozen=True)
class RitzPairs:
    """Ritz values, and the weights of the basis in the Ritz vectors.

    Attributes
    ----------
    values : Tensor of shape (r,), float64, descending
    weights : Tensor of shape (n_basis, r), float64: V = K @ weights has orthonormal columns
    """

    values: Tensor
    weights: Tensor


@dataclass(frozen=True)
class AngleBounds:
    """Bounds on the angles between Ritz vectors and exact directions.

    Attributes
    ----------
    radians : Tensor of shape (k,), float64, at most pi / 2
    rigorous : True where the trace bounds the eigenvalues outside the basis, so that in exact arithmetic nothing is
        assumed; False where they were estimated
    """

    radians: Tensor
    rigorous: bool


def whiten(basis_gram: Tensor) -> Tensor:
    """T of shape (n_basis, r), float64, with Tᵀ (KᵀK) T = I, without dependent directions.

    Parameters
    ----------
    basis_gram : KᵀK of shape (n_basis, n_basis), float64
    """
    lengths, vectors = torch.linalg.eigh(basis_gram)
    keep = lengths > DEPENDENT * lengths.max()
    return vectors[:, keep] / lengths[keep].sqrt()


def rayleigh_ritz(covariance_gram: Tensor, whitening: Tensor) -> RitzPairs:
    """Solve KᵀCK w = theta KᵀK w.

    Parameters
    ----------
    covariance_gram : KᵀCK of shape (n_basis, n_basis), float64
    whitening : T of :func:`whiten`, of shape (n_basis, r)
    """
    inner = whitening.T @ covariance_gram @ whitening
    values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
    return RitzPairs(values.flip(0), whitening @ vectors.flip(1))


def combine(blocks: Sequence[Tensor], weights: Tensor) -> Tensor:
    """K @ weights of shape (d, r), float64, for K = [blocks]."""
    d = blocks[0].shape[0]
    total = torch.empty((weights.shape[1], d), dtype=torch.float64, device=weights.device)
    for at in parts(d):
        basis = part(blocks, at)
        torch.mm(weights.T, basis.T, out=total[:, at : at + len(basis)])
    return total.T


def residual_norms(blocks: Sequence[Tensor], products: Sequence[Tensor], values: Tensor, weights: Tensor) -> Tensor:
    """||C v - theta v|| of some Ritz pairs, of shape (r,), float64, without a further read.

    Parameters
    ----------
    blocks, products : tensors of shape (d, l), l of each block: the basis, and C times it in float64
    values, weights : Tensors of shape (r,) and (n_basis, r) of these pairs; sums are in the dtype of ``weights``
    """
    along = (weights * values.to(weights.dtype)).T
    onto = weights.T.split([block.shape[1] for block in blocks], dim=1)
    squares = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    for at in parts(blocks[0].shape[0]):
        basis = part(blocks, at, weights.dtype)
        difference = along @ basis.T
        for product, some_weights in zip(products, onto, strict=True):
            some = product[at : at + len(basis)].to(weights.dtype)
            difference.addmm_(some_weights, some.T, alpha=-1)
        squares += difference.square_().sum(dim=1)
    return squares.sqrt()


def angle_bounds(
    values: Tensor, residual_norms: Tensor, n_components: int, total: float, block_size: int, n_samples: int
) -> AngleBounds:
    """Bounds on the angles to the exact directions, from their parts outside the basis and inside it.

    Every residual r_j (norm rho_j) is orthogonal to the basis K. Write the exact direction i as xi in K plus y outside.
    Then ``xi_j = r_j·y / (lambda_i - theta_j)`` along every other Ritz vector j. With c a bound on the eigenvalues of C
    outside K, ``|y| (lambda_i - c) <= rho_i + sum_j rho_j² |y| / |theta_j - lambda_i|``. The eigenvalue exceeds its
    Ritz value by at most :func:`_eigenvalue_shifts`. To first order this is Davis & Kahan 1970 outside K; the part
    inside K is of second order.

    Parameters
    ----------
    values : Tensor of shape (r,), float64: all Ritz values, descending
    residual_norms : Tensor of shape (r,), float64, absolute
    n_components : k
    total : trace of C; less the Ritz values it bounds every eigenvalue outside K
    block_size : l; the l-th Ritz value stands for the largest eigenvalue outside K where the trace is too weak
    n_samples : rows, over which the rounding of their projections averages out
    """
    k = n_components
    rest = max(total - float(values.sum()), 0.0)
    rigorous = rest < _TRUSTED * float(values[k - 1])
    outside = rest if rigorous or len(values) <= k else float(values[min(block_size, len(values)) - 1])
    gap = values[:k] - outside
    squares = residual_norms.square()
    shift = _eigenvalue_shifts(values, squares, gap)
    apart = values[:k, None] - values[None, :]
    places = torch.arange(len(values), device=values.device)
    order = places[None, :] - places[:k, None]
    near = torch.where(order > 0, apart, -apart - shift[:, None])  # |theta_j - lambda_i|, from below
    near = torch.where(order == 0, torch.inf, near)
    effective = gap - (squares[None, :] / near.clamp(min=1e-300)).sum(dim=1)
    first = residual_norms[:k] / effective.clamp(min=1e-300)
    second = first * (squares[None, :] / near.clamp(min=1e-300).square()).sum(dim=1).sqrt()
    known = (gap > 0) & (near > 0).all(dim=1) & (effective > 0)
    tangent = torch.where(known, torch.hypot(first, second), torch.inf)
    angle = torch.atan(tangent) + NUMERICAL_FLOOR + _rounding(values, k, total, n_samples)
    return AngleBounds(angle.clamp(max=math.pi / 2), rigorous)


def _eigenvalue_shifts(values: Tensor, squares: Tensor, gap: Tensor) -> Tensor:
    """Bounds on lambda_i - theta_i, of shape (k,): the root t of ``sum_(j>=i) rho_j² / (theta_i + t - theta_j) = gap``.

    By the Schur complement of C on K, lambda_i is an eigenvalue of Theta + M with ``0 <= M <= RᵀR / (lambda_i - c)``.
    For any weights w > 0 of sum 1, ``RᵀR <= diag(rho_j² / w_j)``. With
    ``w_j = rho_j² / (gap_i (theta_i + t - theta_j))`` no entry from i on exceeds theta_i + t (Weyl).

    Parameters
    ----------
    values : Tensor of shape (r,), Ritz values, descending
    squares : Tensor of shape (r,), rho_j²
    gap : Tensor of shape (k,), theta_i - c
    """
    k = len(gap)
    places = torch.arange(len(values), device=values.device)
    below = places[None, :] >= places[:k, None]
    apart = (values[:k, None] - values[None, :]).clamp(min=0)
    squares = torch.where(below, squares[None, :], 0.0)
    low = torch.zeros_like(gap)
    high = squares.sum(dim=1) / gap.clamp(min=1e-300)  # here every term is at most its share of the gap
    for _ in range(60):  # bisection, to the last bit of float64
        middle = (low + high) / 2
        enough = (squares / (middle[:, None] + apart).clamp(min=1e-300)).sum(dim=1) <= gap
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


def _rounding(values: Tensor, k: int, total: float, n_samples: int) -> Tensor:
    """Angle by which rounded projections turn each direction towards the others, of shape (k,), radians."""
    apart = (values[:k, None] - values[None, :]).abs()
    places = torch.arange(k, device=values.device)
    apart[places, places] = torch.inf
    larger = torch.maximum(values[:k, None], values[None, :]).clamp(min=0)
    noise = ROUNDING * (total / n_samples * larger).sqrt()
    return (noise / apart.clamp(min=1e-300)).square().sum(dim=1).sqrt()
