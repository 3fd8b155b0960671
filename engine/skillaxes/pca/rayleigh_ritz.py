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
    """T of shape (n_basis, r) with Tᵀ (KᵀK) T = I, from KᵀK (n_basis, n_basis) in float64; dependent columns dropped."""
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
