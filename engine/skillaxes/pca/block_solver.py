"""Solvers whose first read finds a block of directions: one read of the block Krylov iteration follows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from skillaxes.pca.base import (
    MEAN_COLUMNS,
    Problem,
    Reduction,
    Requirements,
    Scope,
    Solution,
    Solver,
    basis_bytes,
    compact,
    rounded_up,
)
from skillaxes.pca.krylov import Iteration, Krylov, KrylovState, init
from skillaxes.pca.row_moments import MomentRows
from skillaxes.pca.warm_start import WarmStart

_ONE_READ = Iteration(least_reads=1, most_reads=1, rounds_basis=False)  # no later read would mend the rounding
_KRYLOV = Krylov()  # the second read


class BlockRead(Reduction, Protocol):
    """A read that ends with a block of directions."""

    def finish(self) -> WarmStart:
        """The directions, with the mean of the rows as the provisional mean of the next read."""


@dataclass(frozen=True)
class BeforeBlock:
    """The state of a :class:`BlockSolver` before its first read.

    Attributes
    ----------
    shift : Tensor of shape (d,), float64: the provisional mean
    """

    problem: Problem
    scope: Scope
    shift: Tensor

    def state_dict(self) -> dict[str, Any]:
        """The provisional mean alone."""
        return {"before": compact(self.shift)}

    def row_tables(self) -> Mapping[str, MomentRows]:
        """None."""
        return {}


class BlockSolver(Solver[Any]):
    """A solver whose first read finds a block of directions.

    One read of the block Krylov iteration follows. It solves the Rayleigh-Ritz problem within the block, measures the
    residuals and leaves the scores of every row.
    """

    @abstractmethod
    def block_read(self, problem: Problem, shift: Tensor, scope: Scope) -> BlockRead:
        """The first read; ``shift`` (d,), float64, is the provisional mean."""

    @abstractmethod
    def block_directions(self, problem: Problem) -> int:
        """Directions that the first read finds."""

    @abstractmethod
    def block_traffic(self, problem: Problem, columns: int) -> tuple[int, int]:
        """Bytes that each process gives to all_reduce and to broadcast in the first read, for blocks of ``columns``
        columns.
        """

    @abstractmethod
    def block_bytes(self, problem: Problem, columns: int) -> int:
        """Bytes that the first read holds, for blocks of ``columns`` columns."""

    def requirements(self, problem: Problem) -> Requirements:
        """Two reads, with rows in float32 in the first one."""
        d = problem.n_columns
        columns = rounded_up(min(self.block_directions(problem), d) + MEAN_COLUMNS)
        return Requirements(
            block_columns=columns,
            reads=2,
            kept_blocks=1,
            basis_bytes=basis_bytes(d, columns, 1) + self.block_bytes(problem, columns),
            float_rows=True,
            block_traffic=self.block_traffic(problem, columns),
        )

    def init(self, problem: Problem, start: WarmStart, scope: Scope) -> BeforeBlock:
        """The state before the first read."""
        return BeforeBlock(problem, scope, start.shift)

    def load(self, saved: dict[str, Any], problem: Problem, scope: Scope) -> BeforeBlock | KrylovState:
        """The state from its ``state_dict``, with empty row tables."""
        if "before" in saved:
            return BeforeBlock(problem, scope, saved["before"])
        return KrylovState.load(saved, problem, scope, _ONE_READ)

    def next_read(self, state: BeforeBlock | KrylovState) -> Reduction | None:
        """The read that finds the block, then one of the block Krylov iteration."""
        if isinstance(state, BeforeBlock):
            return self.block_read(state.problem, state.shift, state.scope)
        return _KRYLOV.next_read(state)

    def finish_read(self, state: BeforeBlock | KrylovState, read: Any) -> KrylovState:
        """The state after a complete read."""
        if not isinstance(state, BeforeBlock):
            return _KRYLOV.finish_read(state, read)
        start = read.finish()
        state.scope.world.broadcast_(start.shift)
        return init(state.problem, start, state.scope, _ONE_READ)

    def solution(self, state: KrylovState) -> Solution:
        """Directions, stability and the scores of every row."""
        return _KRYLOV.solution(state)

    def record(self, state: KrylovState, read: Any) -> dict[str, Any]:
        """As of any read of the block Krylov iteration."""
        return _KRYLOV.record(state, read)

    def remark(self, state: KrylovState) -> str:
        """The largest residual, once it is known."""
        return _KRYLOV.remark(state)
