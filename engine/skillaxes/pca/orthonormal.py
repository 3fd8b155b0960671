"""Orthonormal blocks, with dependent columns dropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DEPENDENT = 1e-10  # squared length, relative to 1, under which what is left of a column is rounding
ROUNDING = 1e-6  # of a unit column: less than that left over from a float32 product is its rounding
_WHOLE = 1e-4  # of a unit column that is left over, above which what it is owes nothing to rounding
_ROUGHLY_DEPENDENT = 1e-6
_ROWS = 8192  # rows of a tall block that are held in float64 at once


def gram(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ @ right in float64, of shape (a, b), for tall blocks (d, a) and (d, b) of any float dtype."""
    total = torch.zeros((left.shape[1], right.shape[1]), dtype=torch.float64, device=left.device)
    for at in range(0, left.shape[0], _ROWS):
        total += left[at : at + _ROWS].double().T @ right[at : at + _ROWS].double()
    return total


def orthonormalize(block: Tensor, against: Sequence[Tensor] = ()) -> Tensor:
    """An orthonormal basis of what ``block`` (d, b), float64, adds to the span of ``against``, of shape (d, b') with
    b' <= b.

    Symmetric orthonormalisation through the Gram matrix of the scaled columns, so that nearly dependent columns are
    found by their eigenvalue and dropped; once where little cancels and no block gives back what another one took,
    twice otherwise ("twice is enough", Giraud et al. 2005). The blocks of ``against`` may be orthonormal to the
    precision of their own rounding only.
    """
    block, _ = _unit_columns(block)
    # (BᵀB)⁺, for a basis that rounding may have made a little oblique, zero columns included
    inverses = [torch.linalg.pinv(gram(other, other), rtol=1e-12, hermitian=True) for other in against]
    for _ in range(2):
        for other, inverse in zip(against, inverses, strict=True):
            _subtract(block, other, inverse @ gram(other, block))
        block, shortest = _unit_columns(block, shortest=ROUNDING)
        if block.shape[1] == 0:
            return block
        block, least = _symmetric(block, DEPENDENT)
        if len(against) < 2 and shortest > _WHOLE and least > _WHOLE**2:  # float64 has left errors of 1e-12 at most
            return block
    return block


def rough_orthonormal(block: Tensor) -> Tensor:
    """About an orthonormal basis of ``block`` (d, b), float32, of shape (d, b') with b' <= b, between two steps of
    an iteration.
    """
    lengths = torch.linalg.vector_norm(block, dim=0)
    block = block[:, lengths > 0] / lengths[lengths > 0]
    values, vectors = torch.linalg.eigh((block.T @ block).double())
    keep = values > _ROUGHLY_DEPENDENT
    return block @ (vectors[:, keep] / values[keep].sqrt()).flip(1).float()


def _unit_columns(block: Tensor, shortest: float = 0.0) -> tuple[Tensor, float]:
    """The columns longer than ``shortest``, of length 1, in a tensor of their own, and the least length among them."""
    block = block.T.contiguous().T  # columns side by side: their lengths are found ten times faster
    lengths = torch.linalg.vector_norm(block, dim=0)
    keep = lengths > shortest
    if not bool(keep.all()):
        block, lengths = block.T[keep].T, lengths[keep]
    return block / lengths, float(lengths.min()) if len(lengths) else 0.0


def _symmetric(block: Tensor, threshold: float) -> tuple[Tensor, float]:
    """An orthonormal basis of the span, and the least eigenvalue of the Gram matrix, relative to 1."""
    lengths, vectors = torch.linalg.eigh(gram(block, block))
    keep = lengths > threshold
    return ((vectors[:, keep] / lengths[keep].sqrt()).flip(1).T @ block.T).T, float(lengths[0])


def _subtract(block: Tensor, other: Tensor, weights: Tensor) -> None:
    """block (d, b) -= other (d, a) @ weights (a, b), in place."""
    for at in range(0, block.shape[0], _ROWS):
        block[at : at + _ROWS] -= other[at : at + _ROWS].double() @ weights
