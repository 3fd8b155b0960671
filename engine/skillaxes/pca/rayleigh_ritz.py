"""The generalised Rayleigh-Ritz problem on a basis that was rounded to the dtype of the matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skillaxes.pca.orthonormal import part, parts

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


def combine(blocks: Sequence[Tensor], weights: Tensor) -> Tensor:
    """K @ weights in float64, of shape (d, r), for K = [blocks]."""
    d = blocks[0].shape[0]
    total = torch.empty((weights.shape[1], d), dtype=torch.float64, device=weights.device)
    for at in parts(d):
        basis = part(blocks, at)
        torch.mm(weights.T, basis.T, out=total[:, at : at + len(basis)])
    return total.T


def residual_norms(blocks: Sequence[Tensor], products: Sequence[Tensor], values: Tensor, weights: Tensor) -> Tensor:
    """||C v - theta v|| of some Ritz pairs, of shape (r,), float64, from the products that the reads left.

    Parameters
    ----------
    blocks, products : tensors of shape (d, l), l their own: the bases, and C times them in float64
    values, weights : of these pairs, (r,) and (n_basis, r); the sums are made in the dtype of ``weights``
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
