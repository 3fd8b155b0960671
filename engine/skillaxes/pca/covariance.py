"""Exact principal components from the covariance matrix, for few columns: one read, d x d numbers in float64.

One read of the block Krylov iteration follows. It leaves the scores of every row and measures the residuals.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skillaxes.pca.base import Problem, Scope, compact
from skillaxes.pca.block_solver import BlockSolver
from skillaxes.pca.row_moments import Centering, MomentRows, RowMoments
from skillaxes.pca.warm_start import WarmStart, as_shift
from skillaxes.stream.panel import Panel

SUBSPACE = 32  # directions beyond k: random directions and split halves are taken from the whole subspace


class CovarianceRead:
    """The read that sums the covariance matrix.

    Parameters
    ----------
    shift : Tensor of shape (d,), float64: the provisional mean m

    Attributes
    ----------
    products : Tensor of shape (d, d), float64: sums of (x - m)(x - m)ᵀ
    sums : Tensor of shape (d,), float64: sums of x - m
    """

    title = "covariance"

    def __init__(self, problem: Problem, shift: Tensor, scope: Scope) -> None:
        self._problem, self._scope, self._world, self._shift = problem, scope, scope.world, shift.to(problem.device)

    def begin(self) -> None:
        """Allocate the sums."""
        problem, scope = self._problem, self._scope
        d, device = problem.n_columns, problem.device
        self._centering = Centering(problem, self._shift, scope.scale)
        self._moments = RowMoments.empty(problem, scope.projections.first_row, scope.projections.n_rows)
        self.products = torch.zeros((d, d), dtype=torch.float64, device=device)
        self.sums = torch.zeros(d, dtype=torch.float64, device=device)

    def update(self, panel: Panel) -> None:
        """Add one panel."""
        rows = self._centering.rows(panel, self._moments).double()
        self.products.addmm_(rows.T, rows)  # in float64: float32 would lose eigenvalues 1e4 times below the largest
        self.sums.add_(rows.sum(dim=0))

    def finish(self) -> WarmStart:
        """The mean and the leading eigenvectors of the covariance matrix.

        Raises
        ------
        BadRowsError : too few rows count
        StoreError : all rows are equal
        """
        k = self._problem.n_components
        self._world.all_reduce_(self.products, self.sums)
        moments = self._moments.complete(self.sums, self._world, max(2, k))
        assert moments.delta is not None
        covariance = (self.products - moments.n_samples * torch.outer(moments.delta, moments.delta)) / moments.degrees
        vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : k + SUBSPACE]
        return WarmStart(as_shift(self._shift + moments.delta, self._problem).cpu(), vectors, moments.n_samples)

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, as plain values."""
        return {
            "products": compact(self.products),
            "sums": compact(self.sums),
            "layer_squares": compact(self._moments.layer_squares),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the sums, before the first panel."""
        self.products.copy_(saved["products"])
        self.sums.copy_(saved["sums"])
        self._moments.layer_squares.copy_(saved["layer_squares"])

    def row_tables(self) -> dict[str, MomentRows]:
        """The moments of the rows."""
        return {"rows-covariance": MomentRows(self._moments)}


class Covariance(BlockSolver):
    """Eigenvectors of the covariance matrix, summed in float64."""

    name = "covariance"

    def block_read(self, problem: Problem, shift: Tensor, scope: Scope) -> CovarianceRead:
        """The read that sums the matrix."""
        return CovarianceRead(problem, shift, scope)

    def block_directions(self, problem: Problem) -> int:
        """k, and some more."""
        return problem.n_components + SUBSPACE

    def block_bytes(self, problem: Problem, columns: int) -> int:
        """The matrix and the buffers of its eigenproblem."""
        return 5 * problem.n_columns**2 * 8

    def block_traffic(self, problem: Problem, columns: int) -> tuple[int, int]:
        """The matrix, the sums of the columns, and the moments; then the mean."""
        d = problem.n_columns
        return 8 * (d * d + d) + 8 * 2 + 8 * len(problem.layers), 8 * d
