"""A first block from a sample of the rows: some subspace iterations in memory."""

from __future__ import annotations

from dataclasses import dataclass

import skillaxes_kernels as kernels
import torch
from torch import Tensor

from skillaxes.pca.orthonormal import orthonormalize
from skillaxes.pca.problem import Problem

ITERATIONS = 3
RANDOM_COLUMNS = 4  # of the block: what the sample has missed is seen through them


@dataclass(frozen=True)
class WarmStart:
    """Where the solver begins.

    Attributes
    ----------
    shift : Tensor of shape (d,), float64 holding float32 values: the provisional mean
    block : Tensor of shape (d, b), float64, orthonormal columns
    n_rows : sampled rows
    """

    shift: Tensor
    block: Tensor
    n_rows: int


def warm_start(problem: Problem, sample: Tensor, n_directions: int, scale: Tensor | None) -> WarmStart:
    """Subspace iteration on ``sample`` (n, d), rows in the store's dtype on the host.

    Halko, Martinsson & Tropp 2011, algorithm 4.4, on the sample alone. Rows with NaN or infinity are left out.
    A few random columns complete the block.
    """
    finite = torch.isfinite(sample).all(dim=1)
    if not bool(finite.all()):
        sample = sample[finite]
    shift = _mean(sample, scale)
    width = min(n_directions, problem.n_columns)
    generator = torch.Generator().manual_seed(problem.seed)
    n_random = min(RANDOM_COLUMNS, max(width - problem.n_components, 0)) if len(sample) < problem.n_rows else 0
    n_led = min(width - n_random, len(sample))
    block = torch.empty((problem.n_columns, 0), dtype=torch.float64, device=problem.device)
    if n_led > 0:
        weights = torch.randn((len(sample), n_led), generator=generator).to(problem.device)
        passes = _Sample(problem, sample, shift, scale)
        block = orthonormalize(passes.transposed(weights))
        for _ in range(ITERATIONS):
            block = orthonormalize(passes.transposed(passes.project(block)))
    filling = torch.randn((problem.n_columns, width - block.shape[1]), generator=generator, dtype=torch.float64)
    extra = orthonormalize(filling.to(problem.device), [block])
    return WarmStart(shift, torch.cat([block, extra], dim=1), len(sample))


def _mean(sample: Tensor, scale: Tensor | None) -> Tensor:
    total = torch.zeros(sample.shape[1], dtype=torch.float64)
    for at in range(0, len(sample), 256):
        total += sample[at : at + 256].double().sum(dim=0)
    mean = total / max(len(sample), 1)
    if scale is not None:
        mean = mean * scale.cpu().double()
    return mean.float().double()


class _Sample:
    """The centred sample as an operator, panel by panel through the kernels."""

    def __init__(self, problem: Problem, sample: Tensor, shift: Tensor, scale: Tensor | None) -> None:
        self._problem = problem
        self._sample = sample
        self._shift = shift.to(problem.device, torch.float64 if problem.panel_dtype == torch.float64 else torch.float32)
        self._scale = scale
        self._scratch = kernels.make_scratch(
            problem.device, problem.panel_rows, problem.n_columns, problem.panel_dtype
        )

    def _passes(self, directions: Tensor):  # type: ignore[no-untyped-def]
        size = self._problem.panel_rows
        for at in range(0, len(self._sample), size):
            rows = self._sample[at : at + size].to(self._problem.device)
            yield at, kernels.project(rows, directions, self._shift, scale=self._scale, scratch=self._scratch)

    def project(self, block: Tensor) -> Tensor:
        directions = kernels.round_directions(
            block.float(), self._problem.panel_dtype, self._problem.device, self._scale
        )
        out = torch.empty((len(self._sample), block.shape[1]), device=self._problem.device)
        for at, projection in self._passes(directions):
            out[at : at + len(projection.dots)] = projection.dots
        return out

    def transposed(self, weights: Tensor) -> Tensor:
        total = torch.zeros((self._problem.n_columns, weights.shape[1]), device=self._problem.device)
        nothing = torch.zeros((self._problem.n_columns, 16), device=self._problem.device)
        for at, projection in self._passes(nothing):
            kernels.accumulate(total, projection, weights[at : at + len(projection.dots)].contiguous())
        return total.double()
