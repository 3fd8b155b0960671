"""Scores of every row on given directions: one read, nothing to solve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from skillaxes.pca.base import (
    MEAN_COLUMNS,
    RANDOM_DIRECTIONS,
    PCAResult,
    Problem,
    Requirements,
    Scope,
    Solution,
    Solver,
    basis_bytes,
    rounded_up,
)
from skillaxes.pca.krylov import Iteration, Krylov, KrylovRead, KrylovState, bad_rows, init, scored_rows, with_read
from skillaxes.pca.stability import Stability
from skillaxes.pca.warm_start import WarmStart


@dataclass(frozen=True)
class Given(Solver[KrylovState]):
    """Directions that are given, not searched for.

    Attributes
    ----------
    components : Tensor of shape (k, d), any float dtype; normalised to unit length
    source : name of their file, for messages
    mean : Tensor of shape (d,): the mean that centred scores are relative to; None for the store's own
    scale : Tensor of shape (d,): the factor of each column; None for none
    reads : 1, or 2 for norms of centred rows relative to the store's own mean
    """

    components: Tensor
    source: str
    mean: Tensor | None = None
    scale: Tensor | None = None
    reads: int = 1
    name = "given directions"

    def requirements(self, problem: Problem) -> Requirements:
        """One block of all directions and the random ones."""
        columns = rounded_up(len(self.components) + RANDOM_DIRECTIONS + MEAN_COLUMNS)
        return Requirements(
            block_columns=columns,
            reads=self.reads,
            kept_blocks=1,
            basis_bytes=basis_bytes(problem.n_columns, columns, 1),
            solves=False,
            reasons=(f"{len(self.components)} directions from {self.source}",),
        )

    def start_directions(self, problem: Problem) -> int:
        """Those that the random directions are mixed from."""
        return RANDOM_DIRECTIONS

    def init(self, problem: Problem, start: WarmStart, scope: Scope) -> KrylovState:
        """The state before the first read: one block of all directions and the random ones."""
        shift = start.shift if self.mean is None else self.mean.float().double()
        generator = torch.Generator().manual_seed(problem.options.seed + 1)
        mixing = torch.randn((start.block.shape[1], RANDOM_DIRECTIONS), generator=generator, dtype=torch.float64)
        unit = self._unit().to(problem.device)
        random = start.block @ mixing.to(unit.device)
        block = torch.cat([unit.T, random / torch.linalg.vector_norm(random, dim=0)], dim=1)
        scope.world.broadcast_(shift)
        return init(problem, WarmStart(shift, block, start.n_rows), scope, self._iteration())

    def load(self, saved: dict[str, Any], problem: Problem, scope: Scope) -> KrylovState:
        """The state from its ``state_dict``, with empty row tables."""
        return KrylovState.load(saved, problem, scope, self._iteration())

    def next_read(self, state: KrylovState) -> KrylovRead | None:
        """The read of all directions; in a second read the block holds the correction of the mean alone."""
        if state.reads >= self.reads:
            return None
        return KrylovRead(state if state.reads == 0 else replace(state, next_block=state.next_block[:, :0]))

    def finish_read(self, state: KrylovState, read: KrylovRead) -> KrylovState:
        """The state after a complete read.

        Raises
        ------
        BadRowsError : too few rows count
        StoreError : all rows are equal
        """
        return with_read(state, read)

    def solution(self, state: KrylovState) -> Solution:
        """Variances and residuals of the directions, and the scores of every row."""
        moments, k = state.moments, len(self.components)
        assert moments.delta is not None
        unit = self._unit().to(state.problem.device)
        product = state.basis.products[0][:, :k].double().T  # (k, d): C v
        variance = (product * unit).sum(dim=1)
        residual = torch.linalg.vector_norm(product - variance[:, None] * unit, dim=1)
        result = PCAResult(
            components=unit.cpu(),
            mean=self.mean.double() if self.mean is not None else (state.shift + moments.delta).cpu(),
            explained_variance=variance.clamp(min=0).cpu(),
            total_variance=moments.total_variance,
            residuals=(residual / variance.clamp(min=1e-300)).cpu(),
            angle_bounds=torch.zeros(k, dtype=torch.float64),
            bound_rigorous=True,
            n_samples=moments.n_samples,
            reads=state.reads,
            converged=True,
            layer_variance=moments.layer_variance.cpu(),
        )
        weights = torch.zeros((sum(state.basis.widths), k + RANDOM_DIRECTIONS), dtype=torch.float64)
        weights[: k + RANDOM_DIRECTIONS] = torch.eye(k + RANDOM_DIRECTIONS, dtype=torch.float64)
        rows = scored_rows(state, weights)
        if self.mean is not None:
            rows = replace(rows, at_delta=torch.zeros_like(rows.at_delta), delta_square=0.0, corrected=False)
        elif state.reads == 1:
            rows = replace(rows, centered_known=False)
        unknown = torch.full((k,), torch.nan, dtype=torch.float64)
        return Solution(result, Stability(unknown, unknown), rows, self.scale, bad_rows(state), searched=False)

    def record(self, state: KrylovState, read: KrylovRead) -> dict[str, Any]:
        """As of any read of the block Krylov iteration."""
        return Krylov().record(state, read)

    def _unit(self) -> Tensor:
        """The directions at unit length, of shape (k, d), float64."""
        components = self.components.double()
        return components / torch.linalg.vector_norm(components, dim=1, keepdim=True)

    def _iteration(self) -> Iteration:
        return Iteration(least_reads=1, most_reads=self.reads, rounds_basis=False, solves=False)
