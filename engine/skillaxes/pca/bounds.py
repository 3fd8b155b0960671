"""How far a Ritz vector can be from the exact direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 2e-7  # of a float32 projection, relative to the row's length; measured over many shapes
NUMERICAL_FLOOR = 1e-6  # radians: float32 products leave this much, whatever the residual says


@dataclass(frozen=True)
class AngleBounds:
    """Bounds on the angles between Ritz vectors and exact directions.

    Attributes
    ----------
    radians : Tensor of shape (k,), float64, at most pi / 2
    rigorous : True where the eigenvalues outside the basis were bounded by the trace; False where they were estimated
    """

    radians: Tensor
    rigorous: bool


def angle_bounds(
    values: Tensor, residual_norms: Tensor, n_components: int, total: float, block_size: int, n_samples: int
) -> AngleBounds:
    """The two-part bound: first order outside the basis, second order inside.

    Every residual r_i is orthogonal to the basis K. The part of the exact direction outside K is at most
    ``||r_i|| / (theta_i - c)`` where c bounds the eigenvalues of C outside K (Davis & Kahan 1970 on the complement);
    inside K it turns towards the Ritz vector j by at most ``||r_i|| ||r_j|| / ((theta_i - c) |theta_i - theta_j|)``.

    Parameters
    ----------
    values : Tensor of shape (r,), all Ritz values, descending
    residual_norms : Tensor of shape (r,), absolute
    n_components : k
    total : trace of C; what it leaves over the Ritz values bounds every eigenvalue outside K
    n_samples : rows; the rounding of their projections averages out over them
    block_size : l; the l-th Ritz value stands for the largest eigenvalue outside K where the trace is too weak
    """
    k = n_components
    rest = max(total - float(values.sum()), 0.0)
    rigorous = rest < float(values[k - 1]) * 0.9
    outside = rest if rigorous else float(values[min(block_size, len(values)) - 1])
    if not rigorous and len(values) <= k:
        outside = rest
    gap = values[:k] - outside
    first = torch.where(gap > 0, residual_norms[:k] / gap.clamp(min=1e-300), torch.inf)
    apart = (values[:k, None] - values[None, :]).abs()
    turn = first[:, None] * residual_norms[None, :] / apart.clamp(min=1e-300)
    turn[torch.arange(k), torch.arange(k)] = 0
    second = turn.square().sum(dim=1).sqrt()
    sine = torch.nan_to_num(torch.hypot(first, second), nan=1.0, posinf=1.0).clamp(max=1.0)
    apart[torch.arange(k), torch.arange(k)] = torch.inf
    larger = torch.maximum(values[:k, None], values[None, :]).clamp(min=0)
    rounding = (ROUNDING * (total / n_samples * larger).sqrt() / apart.clamp(min=1e-300)).square().sum(dim=1).sqrt()
    return AngleBounds((torch.asin(sine) + NUMERICAL_FLOOR + rounding).clamp(max=math.pi / 2), rigorous)
