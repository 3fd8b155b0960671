"""Given directions against every row: one read, nothing to solve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from skillaxes.pca import krylov
from skillaxes.pca.problem import PCAResult
from skillaxes.pca.split_half import Stability
from skillaxes.pca.warm_start import WarmStart
from skillaxes.planning import RANDOM_DIRECTIONS
from skillaxes.ranking.rows import kept_rows
from skillaxes.solve import Solved
from skillaxes.stages import Stages


def solve_given(job: Stages, components: Tensor, *, mean: Tensor | None, scale: Tensor | None) -> Solved:
    """Rows against given directions: one read, or as many as are planned.

    Parameters
    ----------
    components : Tensor of shape (k, d); brought to unit length
    mean : Tensor of shape (d,) that centred scores are relative to; None for the store's own
    scale : Tensor of shape (d,) that the columns are multiplied by, or None
    """
    stream, log = job.stream, job.log
    lengths = torch.linalg.vector_norm(components.double(), dim=1, keepdim=True)
    unit = (components.double() / lengths).to(stream.device)
    start = job.start_found()
    if start is None:
        sample = log.run("sample", stream, job.sample)
        start = _start(job, sample, unit, mean, scale)
        del sample
        job.after_start(start, None, read=False)
    state = job.krylov_at(start, scale)
    while state.reads < job.plan.reads:
        name = f"read {state.reads + 1}"
        begun = state if state.reads == 0 else replace(state, next_block=start.block[:, :0])
        state = log.run(name, stream, partial(job.read_once, begun, name))
        log.note(basis=list(state.widths))
        job.after_read(state, start, None, last=state.reads >= job.plan.reads)
    return log.run("directions", stream, lambda: _finish(job, state, unit, mean, scale))


def _start(job: Stages, sample: Sequence[Tensor], unit: Tensor, mean: Tensor | None, scale: Tensor | None) -> WarmStart:
    """The directions and some random ones of the sample's space, in one block."""
    start = job.warm_start(sample, RANDOM_DIRECTIONS, scale)
    shift = start.shift if mean is None else mean.float().double()
    generator = torch.Generator().manual_seed(job.config.seed + 1)
    mixing = torch.randn((start.block.shape[1], RANDOM_DIRECTIONS), generator=generator, dtype=torch.float64)
    random = start.block @ mixing.to(unit.device)
    block = torch.cat([unit.T, random / torch.linalg.vector_norm(random, dim=0)], dim=1)
    job.world.broadcast_(shift)
    return WarmStart(shift, block, start.n_rows)


def _finish(job: Stages, state: krylov.KrylovState, unit: Tensor, mean: Tensor | None, scale: Tensor | None) -> Solved:
    """Variances and residuals of given directions, and the rows for ranking."""
    moments, k = state.moments, len(unit)
    assert moments.delta is not None
    product = state.products[0][:, :k].double().T  # (k, d): C v
    variance = (product * unit).sum(dim=1)
    residual = torch.linalg.vector_norm(product - variance[:, None] * unit, dim=1)
    result = PCAResult(
        components=unit.cpu(),
        mean=mean.double() if mean is not None else (state.shift + moments.delta).cpu(),
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
    n_basis = sum(block.shape[1] for block in state.blocks)
    weights = torch.zeros((n_basis, k + RANDOM_DIRECTIONS), dtype=torch.float64)
    weights[: k + RANDOM_DIRECTIONS] = torch.eye(k + RANDOM_DIRECTIONS, dtype=torch.float64)
    kept = kept_rows(state, weights)
    if mean is not None:
        kept = replace(kept, at_delta=torch.zeros_like(kept.at_delta), delta_square=0.0, corrected=False)
    elif state.reads == 1:
        kept = replace(kept, centered_known=False)
    unknown = torch.full((k,), torch.nan, dtype=torch.float64)
    bad = moments.first_row + np.flatnonzero(moments.bad)
    return Solved(result, Stability(unknown, unknown), kept, scale, np.concatenate(job.world.gather(bad)))
