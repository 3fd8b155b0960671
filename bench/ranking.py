"""Directions, signs and lists as the definition has them, in float64. Short and slow on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def with_signs(directions: torch.Tensor) -> torch.Tensor:
    """Directions of unit length whose entry of largest magnitude is positive; the first one where several are largest.

    directions : (k, d)
    """
    import torch

    largest = directions.abs().argmax(dim=1, keepdim=True)
    signs = torch.sign(directions.gather(1, largest))
    return directions * signs / torch.linalg.vector_norm(directions, dim=1, keepdim=True)


def ends(cosines: torch.Tensor, top: int, valid: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows at both ends of every direction, the most extreme first; among equals the lower row first.

    cosines : (n_rows, k) float64
    valid : (n_rows,) bool, rows that can be ranked; None for all

    Returns
    -------
    positive, negative : (k, top) int64
    """
    import torch

    rows = torch.arange(len(cosines)) if valid is None else torch.nonzero(valid).flatten()
    ranked = cosines[rows]
    # A stable sort keeps equals in the order of their rows.
    falling = torch.sort(ranked, dim=0, descending=True, stable=True).indices[:top]
    rising = torch.sort(ranked, dim=0, descending=False, stable=True).indices[:top]
    return rows[falling].T.contiguous(), rows[rising].T.contiguous()
