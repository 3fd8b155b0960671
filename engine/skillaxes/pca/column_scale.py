"""Factors of the columns for ``--scale``, from one read that sums the squares of every column."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skillaxes.pca.base import Problem, Scope, compact
from skillaxes.pca.row_moments import Centering, MomentRows, RowMoments
from skillaxes.pca.solvers import LAYER_RMS
from skillaxes.stream.panel import Panel

_CONSTANT = 1e-6  # variance over squared distance from the provisional mean: below it a column varies by rounding alone


class ColumnScaleRead:
    """The read that sums the squares of every column.

    Parameters
    ----------
    shift : Tensor of shape (d,), float64: the provisional mean
    """

    title = "column statistics"

    def __init__(self, problem: Problem, shift: Tensor, scope: Scope) -> None:
        self._problem, self._scope, self._world, self._shift = problem, scope, scope.world, shift

    def begin(self) -> None:
        """Allocate the sums."""
        problem, scope = self._problem, self._scope
        self._centering = Centering(problem, self._shift, None)
        self._moments = RowMoments.empty(problem, scope.projections.first_row, scope.projections.n_rows)
        self._sums = torch.zeros((2, problem.n_columns), dtype=torch.float64, device=problem.device)

    def update(self, panel: Panel) -> None:
        """Add one panel."""
        rows = self._centering.rows(panel, self._moments)
        self._sums[0] += rows.sum(dim=0, dtype=torch.float64)
        self._sums[1] += torch.linalg.vector_norm(rows, dim=0).double().square()

    def finish(self) -> Tensor:
        """The factor of each column, of shape (d,), float32; 1 for constant columns.

        Raises
        ------
        BadRowsError : too few rows count
        StoreError : all rows are equal
        """
        sums, world = self._sums, self._world
        world.all_reduce_(sums)
        complete = self._moments.complete(sums[0], world, max(2, self._problem.n_components))
        assert complete.delta is not None
        offset = complete.n_samples * complete.delta.square()
        variance = (sums[1] - offset).clamp(min=0) / complete.degrees
        variance[sums[1] - offset <= _CONSTANT * offset] = 0
        if self._problem.options.scale == LAYER_RMS:
            for part in self._problem.layers:
                variance[part] = variance[part].mean()
        scale = torch.where(variance > 0, variance.clamp(min=1e-300).rsqrt(), 1.0).float()
        world.broadcast_(scale)
        return scale

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, as plain values."""
        return {"sums": compact(self._sums), "layer_squares": compact(self._moments.layer_squares)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the sums, before the first panel."""
        self._sums.copy_(saved["sums"])
        self._moments.layer_squares.copy_(saved["layer_squares"])

    def row_tables(self) -> dict[str, MomentRows]:
        """The moments of the rows."""
        return {"rows-scale": MomentRows(self._moments)}
