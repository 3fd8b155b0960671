"""The generalised Rayleigh-Ritz problem on a basis that was rounded to the dtype of the matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DEPENDENT = 1e-5  # eigenvalue of KᵀK, relative to the largest, under which a direction of the basis is dropped


@dataclass(frozen=True)
class RitzPairs:
    """Ritz values and how the basis combines to the Ritz vectors.

    Attributes
    ----------
    values : Tensor of shape (r,), float64, descending
    weights : Tensor of shape (n_basis, r), float64: V = K @ weights has orthonormal columns
    """

    values: Tensor
    weights: Tensor


def whiten(basis_gram: Tensor) -> Tensor:
    """T of shape (n_basis, r) with Tᵀ (KᵀK) T = I, from KᵀK (n_basis, n_basis) in float64; dependent columns
    dropped.
    """
    lengths, vectors = torch.linalg.eigh(basis_gram)
    keep = lengths > DEPENDENT * lengths.max()
    return vectors[:, keep] / lengths[keep].sqrt()


def rayleigh_ritz(covariance_gram: Tensor, whitening: Tensor) -> RitzPairs:
    """Solve KᵀCK w = theta KᵀK w.

    Parameters
    ----------
    covariance_gram : KᵀCK of shape (n_basis, n_basis), float64
    whitening : what :func:`whiten` made of KᵀK
    """
    inner = whitening.T @ covariance_gram @ whitening
    values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
    return RitzPairs(values.flip(0), whitening @ vectors.flip(1))


def combine(blocks: tuple[Tensor, ...], weights: Tensor) -> Tensor:
    """[blocks] @ weights in float64, of shape (d, r)."""
    width = blocks[0].shape[1]
    total = torch.zeros((blocks[0].shape[0], weights.shape[1]), dtype=torch.float64, device=weights.device)
    for number, block in enumerate(blocks):
        total += block.double() @ weights[number * width : (number + 1) * width]
    return total


def residual_norms(blocks: tuple[Tensor, ...], products: tuple[Tensor, ...], ritz: RitzPairs, n_exact: int) -> Tensor:
    """||C v - theta v|| of every Ritz pair, of shape (r,), float64, from the products that the reads left.

    In float64 for the first ``n_exact`` pairs; the others only bound how the first ones can turn among them.
    """
    exact, rest = ritz.weights[:, :n_exact], ritz.weights[:, n_exact:].float()
    squares = torch.zeros_like(ritz.values)
    rows = 8192
    for at in range(0, blocks[0].shape[0], rows):
        basis = torch.cat([block[at : at + rows] for block in blocks], dim=1)
        product = torch.cat([block[at : at + rows] for block in products], dim=1)
        first = product.double() @ exact - (basis.double() @ exact) * ritz.values[:n_exact]
        others = product.float() @ rest - (basis @ rest) * ritz.values[n_exact:].float()
        squares[:n_exact] += first.square().sum(dim=0)
        squares[n_exact:] += others.square().sum(dim=0)
    return squares.sqrt()
