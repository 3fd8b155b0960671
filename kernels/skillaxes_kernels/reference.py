"""The definition, in float64: short, slow, and the truth of every test."""

from __future__ import annotations

import torch
from torch import Tensor

from skillaxes_kernels.types import MAX_SQ_NORM, MIN_SQ_NORM, Projection


def project(
    panel: Tensor,
    directions: Tensor,
    shift: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    epilogue: str = "dots",
) -> Projection:
    """``y = panel * scale - shift`` with bad rows zeroed, then ``y @ directions`` and ``|y|^2``, all in float64."""
    y = panel.double()  # (b, d)
    finite = torch.isfinite(y).all(dim=1)
    if scale is not None:
        y = y * scale.double()
    if shift is not None:
        y = y - shift.double()
    overflowed = finite & ((y * y).sum(dim=1) > MAX_SQ_NORM)
    bad = ~finite | overflowed
    y = torch.where(bad[:, None], 0.0, y)
    dots, sq_norms = y @ directions.double(), (y * y).sum(dim=1)  # (b, l), (b,)
    if epilogue == "cosines":
        lengths = sq_norms.clamp(min=MIN_SQ_NORM).sqrt()
        dots = torch.where((sq_norms < MIN_SQ_NORM)[:, None], 0.0, dots / lengths[:, None])
    return Projection(dots, sq_norms, bad, overflowed, (y,), None, None, "reference")


def accumulate(z: Tensor, projection: Projection, weights: Tensor) -> None:
    """``z += y^T @ weights``, the product in float64."""
    z += (projection.rows.T @ weights.double()).to(z.dtype)


def top_k(scores: Tensor, k: int, valid: Tensor | None = None) -> list[list[tuple[float, int]]]:
    """The k largest (score, row) of each column of ``scores`` (b, n_lists), ties to the lower row."""
    counted = torch.isfinite(scores) if valid is None else torch.isfinite(scores) & valid[:, None]
    lists = []
    for column, usable in zip(scores.T.tolist(), counted.T.tolist(), strict=True):
        pairs = [(score, row) for row, (score, use) in enumerate(zip(column, usable, strict=True)) if use]
        lists.append(sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:k])
    return lists
