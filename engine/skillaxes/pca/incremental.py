"""Incremental principal components of rows that are read once: Ross et al. 2008, section 3.1, without forgetting.

``StreamingPCA`` publishes these directions as they are. For a store, one read of the block Krylov iteration follows. It
solves the Rayleigh-Ritz problem within their subspace, measures the residuals and leaves the scores of every row.

The state holds more directions than k and takes rows in batches. Each batch costs one small eigenproblem, of its Gram
matrix, instead of an SVD of tall blocks. A batch may have fewer rows than k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from skillaxes.cluster.world import World
from skillaxes.pca.base import Problem, Scope, compact
from skillaxes.pca.block_solver import BlockSolver
from skillaxes.pca.row_moments import Centering, MomentRows, RowMoments
from skillaxes.pca.warm_start import WarmStart, as_shift, completed
from skillaxes.stream.panel import Panel

BATCH_ROWS = 512
OVERSAMPLING = 4  # directions held for each of the k: those cut off at every batch are the error of the method
_MINIMUM_EXTRA = 22
_STEEP = 1e-3  # of the largest square: for a k-th square below it a Gram matrix in float32 is too rough
_NEGLIGIBLE = 1e-13  # of the largest squared singular value
_SAVED = ("mean", "directions", "squares", "pending")


@dataclass(frozen=True)
class IncrementalState:
    """Mean and q leading directions of the rows so far, q at most ``capacity``.

    Attributes
    ----------
    n_columns, n_components : d and k
    n_seen : rows in ``mean`` and ``directions``
    shift : Tensor of shape (d,), float64: the rows of ``pending`` and the mean are relative to it
    mean : Tensor of shape (d,), float64: of the rows in ``directions``, relative to ``shift``
    directions : Tensor of shape (d, q), float32, orthonormal
    squares : Tensor of shape (q,), float64: squared singular values
    pending : Tensor of shape (n, d), float32, n < BATCH_ROWS: rows of an incomplete batch
    discarded : sum of the squared singular values that were cut off
    """

    n_columns: int
    n_components: int
    n_seen: int
    shift: Tensor
    mean: Tensor
    directions: Tensor
    squares: Tensor
    pending: Tensor
    discarded: float = 0.0

    @property
    def capacity(self) -> int:
        """The largest number of directions."""
        return capacity(self.n_columns, self.n_components)


def capacity(n_columns: int, n_components: int) -> int:
    """The largest number of directions held for k components of a matrix with d columns."""
    return min(n_columns, max(OVERSAMPLING * n_components, n_components + _MINIMUM_EXTRA))


def init(n_columns: int, n_components: int, shift: Tensor) -> IncrementalState:
    """The state before any row.

    Parameters
    ----------
    n_columns, n_components : d and k
    shift : Tensor of shape (d,), any float dtype: a provisional mean, on the device of the state
    """
    device = shift.device
    return IncrementalState(
        n_columns,
        n_components,
        0,
        shift.double(),
        torch.zeros(n_columns, dtype=torch.float64, device=device),
        torch.zeros((n_columns, 0), device=device),
        torch.zeros(0, dtype=torch.float64, device=device),
        torch.zeros((0, n_columns), device=device),
    )


def update(state: IncrementalState, rows: Tensor) -> IncrementalState:
    """The state after further rows.

    Parameters
    ----------
    rows : Tensor of shape (n, d), float32: the rows less ``shift``, all finite
    """
    at = 0
    while at < len(rows):
        take = min(BATCH_ROWS - len(state.pending), len(rows) - at)
        state = replace(state, pending=torch.cat([state.pending, rows[at : at + take]]))
        at += take
        if len(state.pending) == BATCH_ROWS:
            state = flush(state)
    return state


def flush(state: IncrementalState) -> IncrementalState:
    """The state with its pending rows as a batch: Ross et al. 2008, section 3.1."""
    batch = state.pending
    n, m = state.n_seen, len(batch)
    if m == 0:
        return state
    batch_mean = batch.mean(dim=0, dtype=torch.float64)
    rows = batch - batch_mean.float()
    correction = (state.mean - batch_mean) * (n * m / (n + m)) ** 0.5
    stacked = torch.cat([_weighted(state), rows, correction.float()[None]], dim=0)
    mean = (state.mean * n + batch_mean * m) / (n + m)
    return _shortened(replace(state, n_seen=n + m, mean=mean, pending=batch[:0]), stacked)


def merge(first: IncrementalState, second: IncrementalState) -> IncrementalState:
    """The state of two sets of rows, from two states with the same shift and no pending rows.

    Ross et al. 2008, section 3.1, with the weighted directions of the second state in place of its rows.
    """
    if first.n_seen == 0 or second.n_seen == 0:
        return first if second.n_seen == 0 else second
    n, m = first.n_seen, second.n_seen
    correction = (first.mean - second.mean) * (n * m / (n + m)) ** 0.5
    stacked = torch.cat([_weighted(first), _weighted(second), correction.float()[None]], dim=0)
    return _shortened(
        replace(
            first,
            n_seen=n + m,
            mean=(first.mean * n + second.mean * m) / (n + m),
            discarded=first.discarded + second.discarded,
        ),
        stacked,
    )


def merged(state: IncrementalState, world: World) -> IncrementalState:
    """The state of the rows of all processes. Their states are broadcast in turn, so that two at a time are held."""
    state = flush(state)
    if world.world_size == 1:
        return state
    total = None
    for source, (width, n_seen, discarded) in enumerate(
        world.all_gather_object((state.directions.shape[1], state.n_seen, state.discarded))
    ):
        part = state
        if source != world.rank:
            part = replace(
                state,
                n_seen=n_seen,
                mean=torch.empty_like(state.mean),
                directions=torch.empty((state.n_columns, width), device=state.mean.device),
                squares=torch.empty(width, dtype=torch.float64, device=state.mean.device),
                discarded=discarded,
            )
        world.broadcast_(part.directions, part.squares, part.mean, source=source)
        total = part if total is None else merge(total, part)
    assert total is not None
    return total


class IncrementalRead:
    """The read that updates the state with the rows of a store.

    Parameters
    ----------
    shift : Tensor of shape (d,), float64: the provisional mean
    """

    title = "incremental"

    def __init__(self, problem: Problem, shift: Tensor, scope: Scope) -> None:
        self._problem, self._scope, self._world, self._shift = problem, scope, scope.world, shift

    def begin(self) -> None:
        """Make the state before any row."""
        problem, scope, shift = self._problem, self._scope, self._shift
        self._centering = Centering(problem, shift, scope.scale)
        self._moments = RowMoments.empty(problem, scope.projections.first_row, scope.projections.n_rows)
        self._state = init(problem.n_columns, problem.n_components, shift.to(problem.device))

    def update(self, panel: Panel) -> None:
        """Add one panel."""
        self._state = update(self._state, self._centering.rows(panel, self._moments))

    def finish(self) -> WarmStart:
        """The mean and the directions; random ones complete them where rows of lower rank give fewer than k."""
        problem = self._problem
        state = merged(self._state, self._world)
        least = min(problem.n_components, problem.n_columns)
        block = completed(state.directions.double(), least, torch.Generator().manual_seed(problem.options.seed))
        return WarmStart(as_shift(state.shift + state.mean, problem).cpu(), block, state.n_seen)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values, pending rows included."""
        state = self._state
        tensors = {name: compact(getattr(state, name)) for name in _SAVED}
        return {"n_seen": state.n_seen, "discarded": state.discarded, **tensors}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the state, before the first panel."""
        tensors = {name: saved[name].to(self._problem.device) for name in _SAVED}
        self._state = replace(self._state, n_seen=saved["n_seen"], discarded=saved["discarded"], **tensors)

    def row_tables(self) -> dict[str, MomentRows]:
        """None: the next read finds the bad rows again."""
        return {}


class Incremental(BlockSolver):
    """Incremental principal components of the rows of a store, Ross et al. 2008."""

    name = "incremental"

    def block_read(self, problem: Problem, shift: Tensor, scope: Scope) -> IncrementalRead:
        """The read that updates the state."""
        return IncrementalRead(problem, shift, scope)

    def block_directions(self, problem: Problem) -> int:
        """The largest number of directions."""
        return capacity(problem.n_columns, problem.n_components)

    def block_bytes(self, problem: Problem, columns: int) -> int:
        """A batch and the directions, stacked, and the buffers of their eigenproblem."""
        return 4 * (BATCH_ROWS + columns) * problem.n_columns * 4

    def block_traffic(self, problem: Problem, columns: int) -> tuple[int, int]:
        """Those of the largest state, whose number of directions depends on the rows; then the mean."""
        return 0, 4 * problem.n_columns * columns + 8 * (problem.n_columns + columns) + 8 * problem.n_columns


def _weighted(state: IncrementalState) -> Tensor:
    """Directions times their singular values, as rows, of shape (q, d), float32."""
    return state.directions.T * state.squares.sqrt().float()[:, None]


def _shortened(state: IncrementalState, stacked: Tensor) -> IncrementalState:
    """``state`` with the leading directions of ``stacked`` (n, d), float32."""
    squares, weights = torch.linalg.eigh((stacked @ stacked.T).double())
    leading = min(state.n_components, len(squares))
    if float(squares[-leading]) < _STEEP * float(squares[-1]):
        squares, weights = torch.linalg.eigh(stacked.double() @ stacked.double().T)
    squares, weights = squares.flip(0), weights.flip(1)
    keep = min(state.capacity, int((squares > _NEGLIGIBLE * squares[0].clamp(min=1e-300)).sum()))
    directions = stacked.T @ (weights[:, :keep] / squares[:keep].sqrt()).float()
    orthonormal, triangle = torch.linalg.qr(directions)
    return replace(
        state,
        directions=orthonormal * torch.where(triangle.diagonal() < 0, -1.0, 1.0),
        squares=squares[:keep].clone(),
        discarded=state.discarded + float(squares[keep:].clamp(min=0).sum()),
    )
