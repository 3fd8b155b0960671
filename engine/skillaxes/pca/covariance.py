"""Exact principal components from the covariance matrix: one read, d x d numbers in float64. For few columns.

What comes out is the start of one Krylov read, which ranks the rows and measures the residuals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skillaxes.cluster.world import ALONE, World
from skillaxes.pca.base import Problem
from skillaxes.pca.row_moments import Centering, RowMoments
from skillaxes.pca.warm_start import WarmStart, as_shift
from skillaxes.stream.panel import Panel

SUBSPACE = 32  # directions kept beside the wanted ones: random directions and split halves live in them


@dataclass(frozen=True)
class CovarianceState:
    """Sums over the rows so far.

    Attributes
    ----------
    products : Tensor of shape (d, d), float64: sums of (x - m)(x - m)ᵀ; :func:`update` adds into it
    sums : Tensor of shape (d,), float64: sums of x - m
    """

    problem: Problem
    world: World
    centering: Centering
    shift: Tensor
    moments: RowMoments
    products: Tensor
    sums: Tensor
    done: bool = False


def init(
    problem: Problem,
    shift: Tensor,
    first_row: int,
    n_local: int,
    *,
    scale: Tensor | None = None,
    world: World = ALONE,
) -> CovarianceState:
    """The state before the read; ``shift`` (d,) is the provisional mean."""
    d, device = problem.n_columns, problem.device
    return CovarianceState(
        problem,
        world,
        Centering(problem, shift, scale),
        shift.to(device),
        RowMoments.empty(problem, first_row, n_local),
        torch.zeros((d, d), dtype=torch.float64, device=device),
        torch.zeros(d, dtype=torch.float64, device=device),
    )


def update(state: CovarianceState, panel: Panel) -> CovarianceState:
    """Add one panel."""
    rows = state.centering.rows(panel, state.moments).double()
    state.products.addmm_(rows.T, rows)  # in float64: float32 would blur eigenvalues 1e4 times below the largest
    state.sums.add_(rows.sum(dim=0))
    return state


def end_read(state: CovarianceState) -> CovarianceState:
    """Complete the sums."""
    state.world.all_reduce_(state.products, state.sums)
    return replace(state, moments=state.moments.complete(state.sums, state.world), done=True)


def finalize(state: CovarianceState) -> WarmStart:
    """The mean and the leading eigenvectors of the covariance matrix."""
    moments, k = state.moments, state.problem.n_components
    assert moments.delta is not None
    covariance = (state.products - moments.n_samples * torch.outer(moments.delta, moments.delta)) / moments.degrees
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : k + SUBSPACE]
    return WarmStart(as_shift(state.shift + moments.delta, state.problem).cpu(), vectors, moments.n_samples)
