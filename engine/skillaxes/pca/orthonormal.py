"""Orthonormalisation of tall blocks, with dependent columns dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

DEPENDENT = 1e-10  # squared length, relative to 1: below it the remainder of a column is rounding
ROUNDING = 1e-6  # of a unit column: a shorter remainder of a float32 product is its rounding
_INDEPENDENT = 1e-8  # least eigenvalue of the scaled Gram matrix, relative to 1: above it one pass is enough
_NEGLIGIBLE = 1e-11  # of a unit column along another one: no second projection removes it
_ROUGHLY_DEPENDENT = 1e-6  # as DEPENDENT, of a Gram matrix in float32
_SQUARES_FIT = (1e-12, 1e12)  # between these the largest entry has a square that float32 can sum up
_ROWS = 4096  # rows of a tall block in float64 at once: they fit the second cache


def orthonormalize(block: Tensor, against: Sequence[Tensor] = (), inverse: Tensor | None = None) -> Tensor:
    """An orthonormal basis of the columns of ``block`` after the span of ``against`` is projected out.

    The projection is made twice ("twice is enough", Giraud et al. 2005). Symmetric orthonormalisation through the Gram
    matrix of the scaled columns follows: nearly dependent columns have small eigenvalues and are dropped. Both are
    repeated where columns were nearly dependent.

    Parameters
    ----------
    block : Tensor of shape (d, b), float64
    against : tensors of shape (d, l), any float dtype, K = [against]; orthonormal to the rounding of their own dtype
    inverse : Tensor of shape (n_basis, n_basis), float64: (KᵀK)⁺; None where it is not known yet
    """
    columns = _unit(block)  # (b, d): columns side by side
    if len(columns) and against and inverse is None:
        inverse = pseudo_inverse(torch.cat([overlaps(against, other) for other in against], dim=1))
    for _ in range(2 if len(columns) else 0):
        columns, least = _orthonormalized(columns, against, inverse)
        if least > _INDEPENDENT:
            break
    return columns.T


def rough_orthonormal(block: Tensor) -> Tensor:
    """A roughly orthonormal basis of ``block`` (d, b), float32, of shape (d, b') with b' <= b.

    For use between two steps of an iteration.
    """
    largest = float(torch.linalg.vector_norm(block, ord=torch.inf)) if block.numel() else 0.0
    if not _SQUARES_FIT[0] < largest < _SQUARES_FIT[1]:
        block = block / max(largest, torch.finfo(block.dtype).tiny)
    transform, _ = _symmetric((block.T @ block).double(), 0.0, _ROUGHLY_DEPENDENT)
    return (transform.T.float() @ block.T).T


def pseudo_inverse(basis_gram: Tensor) -> Tensor:
    """(KᵀK)⁺ from KᵀK (n_basis, n_basis), float64; K may be slightly oblique and have zero columns."""
    return torch.linalg.pinv(basis_gram, rtol=1e-12, hermitian=True)


def gram(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ @ right in float64, of shape (a, b), for tall blocks (d, a) and (d, b) of any float dtype."""
    return overlaps([left], right)


def overlaps(blocks: Sequence[Tensor], right: Tensor) -> Tensor:
    """Kᵀ @ right in float64, of shape (n_basis, b), for K = [blocks], (d, n_basis), and a tall block (d, b)."""
    n_basis = sum(block.shape[1] for block in blocks)
    total = torch.zeros((right.shape[1], n_basis), dtype=torch.float64, device=right.device)
    for at in range(0, right.shape[0], _ROWS):
        total.addmm_(right[at : at + _ROWS].double().T, part(blocks, at))
    return total.T


def parts(n_columns: int) -> Iterator[int]:
    """The first row of each part of a tall block, at most _ROWS rows long."""
    return iter(range(0, n_columns, _ROWS))


def part(blocks: Sequence[Tensor], at: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The part of K = [blocks] from row ``at``, of shape (n, n_basis), in ``dtype``."""
    rows = blocks[0][at : at + _ROWS]
    whole = torch.empty((len(rows), sum(block.shape[1] for block in blocks)), dtype=dtype, device=rows.device)
    for target, block in zip(whole.split([block.shape[1] for block in blocks], dim=1), blocks, strict=True):
        target.copy_(block[at : at + _ROWS])
    return whole


def _unit(block: Tensor) -> Tensor:
    """The nonzero columns of ``block`` as rows of length 1."""
    columns = block.T.contiguous()
    lengths = torch.linalg.vector_norm(columns, dim=1)
    if not bool((lengths > 0).all()):
        columns, lengths = columns[lengths > 0], lengths[lengths > 0]
    return columns / lengths[:, None]


def _orthonormalized(columns: Tensor, against: Sequence[Tensor], inverse: Tensor | None) -> tuple[Tensor, float]:
    """``columns`` (b, d) orthonormalised after ``against`` is projected out of them in place.

    Returns
    -------
    rows : Tensor of shape (b', d), float64, orthonormal
    least : least eigenvalue of the Gram matrix of the scaled columns, relative to 1
    """
    n, d = columns.shape
    inner = torch.zeros((n, n), dtype=torch.float64, device=columns.device)
    left = torch.zeros((n, 0), dtype=torch.float64, device=columns.device)
    weights = left.T
    if inverse is not None:
        weights = inverse @ overlaps(against, columns.T)  # (n_basis, b)
        left = torch.zeros_like(weights.T)
    for at in parts(d):
        some = columns[:, at : at + _ROWS]
        if inverse is not None:
            basis = part(against, at)
            some.addmm_(weights.T, basis.T, alpha=-1)
            left.addmm_(some, basis)
        inner.addmm_(some, some.T)
    if inverse is not None:  # the remainder along K is removed with the transformation
        weights = inverse @ left.T
        inner -= left @ weights
    transform, least = _symmetric(inner, ROUNDING, DEPENDENT)
    along = weights @ transform
    some_left = inverse is not None and bool((along.abs() > _NEGLIGIBLE).any())
    out = torch.empty((transform.shape[1], d), dtype=torch.float64, device=columns.device)
    for at in parts(d):
        torch.mm(transform.T, columns[:, at : at + _ROWS], out=out[:, at : at + _ROWS])
        if some_left:
            out[:, at : at + _ROWS].addmm_(along.T, part(against, at).T, alpha=-1)
    return out, least


def _symmetric(inner: Tensor, shortest: float, dependent: float) -> tuple[Tensor, float]:
    """Symmetric orthonormalisation from a Gram matrix ``inner`` (b, b), float64.

    Columns no longer than ``shortest`` are dropped, and directions whose eigenvalue is at most ``dependent``.

    Returns
    -------
    transform : Tensor of shape (b, b'), float64: weights of the columns in the orthonormal ones
    least : least eigenvalue of the Gram matrix of the scaled columns
    """
    lengths = inner.diagonal().clamp(min=0).sqrt()
    keep = torch.nonzero(lengths > shortest)[:, 0]
    if len(keep) == 0:
        return inner[:, :0], 1.0
    scales = 1 / lengths[keep]
    values, vectors = torch.linalg.eigh(inner[keep][:, keep] * scales[:, None] * scales)
    above = values > dependent
    transform = torch.zeros((len(inner), int(above.sum())), dtype=torch.float64, device=inner.device)
    transform[keep] = scales[:, None] * (vectors[:, above] / values[above].sqrt()).flip(1)
    return transform, float(values[0])
