"""Incremental principal components: rows arrive once (Ross et al. 2008, algorithm of section 3.1, without forgetting).

What comes out is either used as it is (``StreamingPCA``) or as the start of one Krylov read, which ranks the rows,
turns the directions to their best within the kept subspace and measures the residuals.

The state keeps a few directions more than are wanted and takes rows in batches; each batch costs one small
eigenproblem through its Gram matrix instead of an SVD of tall blocks. A batch smaller than k is as good as any other.
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
OVERSAMPLING = 4  # directions kept for each one wanted: what is cut off at every batch is the error of the method
_MINIMUM_EXTRA = 22
_STEEP = 1e-3  # of the largest square: below it a Gram matrix in float32 is too rough for what is wanted
_NEGLIGIBLE = 1e-13  # of the largest squared singular value
_SAVED = ("mean", "directions", "squares", "pending")


@dataclass(frozen=True)
class IncrementalState:
    """A summary of the rows so far. q directions, at most ``capacity``.

    Attributes
    ----------
    n_columns, n_components : d and k
    n_seen : rows so far
    shift : Tensor of shape (d,), float64: the rows of ``pending`` and the mean are relative to it
    mean : Tensor of shape (d,), float64: of the rows in ``directions``, relative to ``shift``
    directions : Tensor of shape (d, q), float32, orthonormal
    squares : Tensor of shape (q,), float64: squared singular values
    pending : Tensor of shape (n, d), float32, n < BATCH_ROWS: rows that wait for their batch
    discarded : squared singular values that were cut off, in all
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
        """Directions kept."""
        return capacity(self.n_columns, self.n_components)


def capacity(n_columns: int, n_components: int) -> int:
    """Directions kept for k wanted ones of a matrix with d columns."""
    return min(n_columns, max(OVERSAMPLING * n_components, n_components + _MINIMUM_EXTRA))


def init(n_columns: int, n_components: int, shift: Tensor) -> IncrementalState:
    """The state before any row; ``shift`` (d,) is a provisional mean, on the device to work on."""
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
    """The state after ``rows`` (n, d), float32, already less ``shift``, all finite."""
    at = 0
    while at < len(rows):
        take = min(BATCH_ROWS - len(state.pending), len(rows) - at)
        state = replace(state, pending=torch.cat([state.pending, rows[at : at + take]]))
        at += take
        if len(state.pending) == BATCH_ROWS:
            state = flush(state)
    return state


def flush(state: IncrementalState) -> IncrementalState:
    """The state with no rows waiting."""
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
    """The summary of two sets of rows from the summaries of each, none with rows waiting; the same shift.

    Ross et al. 2008, as in :func:`flush`: the second summary stands in for its rows.
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
    """The summary of the rows of all processes; each one's travels in turn, so that two at a time are held."""
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
    """The read that takes the rows of a store batch by batch.

    Parameters
    ----------
    shift : Tensor of shape (d,), float64: the provisional mean
    """

    title = "incremental"

    def __init__(self, problem: Problem, shift: Tensor, scope: Scope) -> None:
        self._problem, self._scope, self._world, self._shift = problem, scope, scope.world, shift

    def begin(self) -> None:
        """Make room for the summary."""
        problem, scope, shift = self._problem, self._scope, self._shift
        self._centering = Centering(problem, shift, scope.scale)
        self._moments = RowMoments.empty(problem, scope.projections.first_row, scope.projections.n_rows)
        self._state = init(problem.n_columns, problem.n_components, shift.to(problem.device))

    def update(self, panel: Panel) -> None:
        """Add one panel."""
        self._state = update(self._state, self._centering.rows(panel, self._moments))

    def finish(self) -> WarmStart:
        """The mean and the kept directions, filled up where rows of lower rank gave fewer than are wanted."""
        problem = self._problem
        state = merged(self._state, self._world)
        least = min(problem.n_components, problem.n_columns)
        block = completed(state.directions.double(), least, torch.Generator().manual_seed(problem.options.seed))
        return WarmStart(as_shift(state.shift + state.mean, problem).cpu(), block, state.n_seen)

    def state_dict(self) -> dict[str, Any]:
        """The summary, rows that wait for their batch included."""
        state = self._state
        tensors = {name: compact(getattr(state, name)) for name in _SAVED}
        return {"n_seen": state.n_seen, "discarded": state.discarded, **tensors}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Put a summary back, before the first panel."""
        tensors = {name: saved[name].to(self._problem.device) for name in _SAVED}
        self._state = replace(self._state, n_seen=saved["n_seen"], discarded=saved["discarded"], **tensors)

    def row_tables(self) -> dict[str, MomentRows]:
        """None: a bad row is met again in the next read."""
        return {}


class Incremental(BlockSolver):
    """Ross et al. 2008 over the rows of a store."""

    name = "incremental"

    def block_read(self, problem: Problem, shift: Tensor, scope: Scope) -> IncrementalRead:
        """The read that takes the rows batch by batch."""
        return IncrementalRead(problem, shift, scope)

    def block_directions(self, problem: Problem) -> int:
        """Directions kept."""
        return capacity(problem.n_columns, problem.n_components)

    def block_bytes(self, problem: Problem, columns: int) -> int:
        """A batch and the directions, stacked, and what their eigenproblem takes."""
        return 4 * (BATCH_ROWS + columns) * problem.n_columns * 4

    def block_traffic(self, problem: Problem, columns: int) -> tuple[int, int]:
        """The largest summary: how many directions it has depends on the rows."""
        return 0, 4 * problem.n_columns * columns + 8 * (problem.n_columns + columns)


def _weighted(state: IncrementalState) -> Tensor:
    """Directions as rows, as long as their singular values, of shape (q, d)."""
    return state.directions.T * state.squares.sqrt().float()[:, None]


def _shortened(state: IncrementalState, stacked: Tensor) -> IncrementalState:
    """``state`` with the leading directions of ``stacked`` (n, d), float32."""
    squares, weights = torch.linalg.eigh((stacked @ stacked.T).double())
    wanted = min(state.n_components, len(squares))
    if float(squares[-wanted]) < _STEEP * float(squares[-1]):
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
