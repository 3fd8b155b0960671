"""The first block: subspace iteration in memory on a sample of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import skillaxes_kernels as kernels
from skillaxes.cluster.world import ALONE, World
from skillaxes.pca.base import Problem
from skillaxes.pca.orthonormal import orthonormalize, rough_orthonormal

ITERATIONS = 2  # a third would take the residual after three reads from 1.6e-4 to 1.5e-4, the second from 2.1e-4
COARSE = 3  # the first pass takes every third sampled row: rough directions are enough there
RANDOM_COLUMNS = 4  # of the block: they have a part along every direction that the sample misses


@dataclass(frozen=True)
class WarmStart:
    """The start of a solver.

    Attributes
    ----------
    shift : Tensor of shape (d,), float64: the provisional mean, see :func:`as_shift`
    block : Tensor of shape (d, b), float64: columns that are orthonormal to the precision of float32
    n_rows : sampled rows
    """

    shift: Tensor
    block: Tensor
    n_rows: int


def warm_start(
    problem: Problem, sample: Sequence[Tensor], n_directions: int, scale: Tensor | None, world: World = ALONE
) -> WarmStart:
    """Subspace iteration on a sample: Halko, Martinsson & Tropp 2011, algorithm 4.4.

    A few random columns complete the block. Rows with NaN or infinity are left out.

    Parameters
    ----------
    sample : Tensors of shape (n, d), in the dtype of the store, on the host: the sampled rows of this process
    n_directions : columns of the block; 0 for the provisional mean alone
    scale : Tensor of shape (d,), float32: the factor of each column; None for none
    world : the processes that share the job
    """
    passes = _Sample(problem, sample, scale, world)
    shift, n_sample = passes.shift.cpu(), passes.n_rows
    width = min(n_directions, problem.n_columns)
    generator = torch.Generator().manual_seed(problem.options.seed)
    n_random = min(RANDOM_COLUMNS, max(width - problem.n_components, 0)) if n_sample < problem.n_rows else 0
    n_iterated = min(width - n_random, n_sample)
    block = torch.empty((problem.n_columns, 0), dtype=torch.float64, device=problem.device)
    if n_iterated > 0:
        rough = torch.randn((problem.n_columns, n_iterated), generator=generator).to(problem.device)
        for number in range(1 + ITERATIONS):
            one_in = COARSE if number == 0 and n_sample < problem.n_rows else 1
            if rough.shape[1]:  # empty where all rows are equal
                rough = rough_orthonormal(passes.covariance(rough, one_in))
        filling = torch.randn((problem.n_columns, max(width - rough.shape[1], 0)), generator=generator)
        block = rough_orthonormal(torch.cat([rough, filling.to(problem.device)], dim=1)).double()
    return WarmStart(shift, completed(block, width, generator), n_sample)


def completed(block: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """An orthonormal block (d, b), float64, with random columns added up to ``width`` columns."""
    filling = torch.randn((block.shape[0], max(width - block.shape[1], 0)), generator=generator)
    extra = orthonormalize(filling.to(block.device).double(), [block])
    return torch.cat([block, extra], dim=1)


def as_shift(mean: Tensor, problem: Problem) -> Tensor:
    """``mean`` (d,) as the kernels subtract it, float64: rounded to float32 unless the rows are float64."""
    return mean.double() if problem.dtype == torch.float64 else mean.float().double()


class _Sample:
    """The centred sample as an operator, panel by panel through the kernels."""

    def __init__(self, problem: Problem, sample: Sequence[Tensor], scale: Tensor | None, world: World) -> None:
        self._problem, self._scale, self._world = problem, scale, world
        count = sum(map(len, sample))
        self.n_rows = self._everywhere(count)  # of all processes
        self._before = sum(world.all_gather_object(count)[: world.rank])  # of the processes before this one
        if problem.device.type != "cpu":
            sample = (torch.cat(tuple(sample)).to(problem.device),)  # copied once for all iterations
        mean = self._mean(sample)
        finite = [torch.ones(len(piece), dtype=torch.bool) for piece in sample]
        self._whole = bool(torch.isfinite(mean).all())
        if not self._whole:
            finite = [torch.isfinite(piece).all(dim=1) for piece in sample]
            mean = self._mean([piece[good] for piece, good in zip(sample, finite, strict=True)])
        self._sample, self._finite = sample, finite
        self.shift = as_shift(mean if scale is None else mean * scale.double(), problem)
        world.broadcast_(self.shift)

    def _panels(self, one_in: int) -> Iterator[tuple[Tensor, ...]]:
        """Every ``one_in``-th row of the sample, in panels of panel_rows rows, in pieces; the last may be shorter."""
        panel, room, passed = list[Tensor](), self._problem.panel_rows, self._before
        for whole, good in zip(self._sample, self._finite, strict=True):
            some = slice(-passed % one_in, None, one_in)  # the same rows for any pieces and processes
            piece, at = whole[some] if self._whole else whole[some][good[some]], 0
            passed += len(whole)
            while at < len(piece):
                panel.append(piece[at : at + room])
                at, room = at + len(panel[-1]), room - len(panel[-1])
                if not room:
                    yield tuple(panel)
                    panel, room = [], self._problem.panel_rows
        if panel:
            yield tuple(panel)

    def _mean(self, sample: Sequence[Tensor]) -> Tensor:
        total = torch.zeros(self._problem.n_columns, dtype=torch.float64, device=self._problem.device)
        count = sum(map(len, sample))
        if count:
            total += kernels.column_sums(sample)
        self._world.all_reduce_(total)
        return total / max(self._everywhere(count), 1)

    def _everywhere(self, count: int) -> int:
        """The sum of ``count`` over all processes."""
        counts = torch.tensor([count])
        self._world.all_reduce_(counts)
        return int(counts)

    def covariance(self, block: Tensor, one_in: int) -> Tensor:
        """The covariance of the sample times ``block`` (d, b), float32, up to a factor.

        Products are rough, with operands of 8 bits, since only the span of the result is used.
        """
        problem = self._problem
        padding = -block.shape[1] % 16  # matrix products are fastest at multiples of 16
        padded = torch.nn.functional.pad(block, (0, padding))
        directions = kernels.round_directions(padded, problem.dtype, problem.device, self._scale)
        total = torch.zeros(padded.shape[::-1]).T if problem.device.type == "cpu" else torch.zeros_like(padded)
        spec = kernels.PanelSpec(problem.panel_rows, problem.n_columns, problem.dtype, problem.device)
        prepared = kernels.prepare(spec, directions, self.shift, self._scale)
        for rows in self._panels(one_in):
            good = torch.zeros(sum(map(len, rows)), dtype=torch.bool, device=problem.device)
            projection = kernels.project(rows, prepared, bad=good)
            kernels.accumulate(total, projection, projection.dots, bits=8)
        self._world.all_reduce_(total)
        return total[:, : block.shape[1]]
