"""Given directions against every row: one read, nothing to solve."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from skillaxes.cluster.world import ALONE, World
from skillaxes.config import DiscoverConfig
from skillaxes.pca import krylov
from skillaxes.pca.problem import PCAResult
from skillaxes.pca.projections import ProjectionStore
from skillaxes.pca.split_half import Stability
from skillaxes.pca.warm_start import WarmStart, warm_start
from skillaxes.planning import RANDOM_DIRECTIONS, Plan
from skillaxes.progress import Progress
from skillaxes.ranking.rows import kept_rows
from skillaxes.solve import Solved, StageLog, Stages
from skillaxes.stream.panels import PanelStream


def solve_given(
    stream: PanelStream,
    config: DiscoverConfig,
    plan: Plan,
    layers: tuple[slice, ...],
    projections: ProjectionStore,
    log: StageLog,
    progress: Progress,
    components: Tensor,
    *,
    mean: Tensor | None,
    scale: Tensor | None,
    world: World = ALONE,
) -> Solved:
    """Rows against given directions: one read, or ``plan.reads``.

    Parameters
    ----------
    components : Tensor of shape (k, d); brought to unit length
    mean : Tensor of shape (d,) that centred scores are relative to; None for the store's own
    scale : Tensor of shape (d,) that the columns are multiplied by, or None
    """
    job = Stages(stream, config, plan, layers, projections, log, progress, world)
    sample = log.run("sample", stream, job.sample)
    start = warm_start(job.problem, sample, RANDOM_DIRECTIONS, scale, world)
    shift = start.shift if mean is None else mean.float().double()
    lengths = torch.linalg.vector_norm(components.double(), dim=1, keepdim=True)
    unit = (components.double() / lengths).to(stream.device)
    generator = torch.Generator().manual_seed(config.seed + 1)
    mixing = torch.randn((start.block.shape[1], RANDOM_DIRECTIONS), generator=generator, dtype=torch.float64)
    random = start.block @ mixing.to(stream.device)
    block = torch.cat([unit.T, random / torch.linalg.vector_norm(random, dim=0)], dim=1)
    world.broadcast_(shift)
    state = krylov.init(job.problem, WarmStart(shift, block, start.n_rows), projections, scale=scale, world=world)
    state = log.run("read 1", stream, lambda: job.read_once(state, "read 1"))
    for number in range(2, plan.reads + 1):
        again = replace(state, next_block=block[:, :0])
        state = log.run(f"read {number}", stream, partial(job.read_once, again, f"read {number}"))
    return log.run("directions", stream, lambda: _finish(job, state, unit, mean, scale))


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
    width = job.problem.block_size
    weights = torch.zeros((state.reads * width, k + RANDOM_DIRECTIONS), dtype=torch.float64)
    weights[: k + RANDOM_DIRECTIONS] = torch.eye(k + RANDOM_DIRECTIONS, dtype=torch.float64)
    kept = kept_rows(state, weights)
    if mean is not None:
        kept = replace(kept, at_delta=torch.zeros_like(kept.at_delta), delta_square=0.0, corrected=False)
    elif state.reads == 1:
        kept = replace(kept, centered_known=False)
    unknown = torch.full((k,), torch.nan, dtype=torch.float64)
    bad = moments.first_row + np.flatnonzero(moments.bad)
    return Solved(result, Stability(unknown, unknown), kept, scale, np.concatenate(job.world.gather(bad)))
