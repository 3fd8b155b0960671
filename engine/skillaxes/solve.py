"""From a stream to directions and kept rows: the stages of a job, whichever solver runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from skillaxes.pca import krylov
from skillaxes.pca.problem import PCAResult
from skillaxes.pca.saving import own
from skillaxes.pca.split_half import Stability, split_half
from skillaxes.planning import RANDOM_DIRECTIONS
from skillaxes.ranking.rows import KeptRows, kept_rows
from skillaxes.stages import Stages


@dataclass(frozen=True)
class Solved:
    """Directions, and what is left of every row.

    Attributes
    ----------
    result : the directions
    stability : how they vary between halves of the rows
    kept : every row against the k components and the random directions
    scale : Tensor of shape (d,), float32: the factor of each column; None where rows were taken as they are
    bad : ndarray of the rows that were left out, int64
    """

    result: PCAResult
    stability: Stability
    kept: KeptRows
    scale: Tensor | None
    bad: np.ndarray


def solve(job: Stages) -> Solved:
    """Run the solver of the job's plan over its stream, from where the checkpoint is.

    Raises
    ------
    StoppedEarly : the job was told to stop
    """
    stream, config, plan, log, checkpoint = job.stream, job.config, job.plan, job.log, job.checkpoint
    scale = checkpoint.results.get("scale")
    scale = None if scale is None else scale.to(stream.device)
    start = job.start_found()
    if start is None:
        sample = log.run("sample", stream, job.sample)
        if config.scale != "none" and scale is None:
            scale = log.run("column statistics", stream, lambda: job.column_scale(sample))
            checkpoint.finish(partial(_scale_found, scale))
        if plan.solver == "krylov":
            n_directions = plan.block_size - krylov.UTILITY
            start = log.run("warm start", stream, lambda: job.warm_start(sample, n_directions, scale))
        else:
            shift = job.warm_start(sample, 0, scale).shift
            first = job.covariance if plan.solver == "covariance" else job.incremental
            start = log.run(f"read 1 ({plan.solver})", stream, lambda: first(shift, scale))
        job.world.broadcast_(start.shift)
        del sample  # what a read still needs of it, the stream holds
        job.after_start(start, scale, read=plan.solver != "krylov")
    state = job.krylov_at(start, scale)
    while not state.done:
        number = int(stream.reads) + 1
        state = log.run(f"read {number}", stream, partial(job.read, state, f"read {number}"))
        log.note(products=krylov.products_of_read(state, stream.n_rows), basis=list(state.widths))
        worst = float(krylov.relative_residuals(state).max())
        job.progress.note(f"read {number}: largest residual {worst:.1e} (tolerance {config.tolerance:.0e})")
        job.after_read(state, start, scale, last=state.done)
    return log.run("directions", stream, lambda: _finish(job, state, scale))


def _scale_found(scale: Tensor) -> dict[str, Tensor]:
    return {"scale": own(scale)}


def _finish(job: Stages, state: krylov.KrylovState, scale: Tensor | None) -> Solved:
    """Directions, stability and the rows for ranking, from what the reads left."""
    k, problem = job.config.components, job.problem
    result, weights = job.world.share(krylov.finalize(state))
    stability = split_half(state.grams, state.moments.bad, weights, k, problem.seed, job.world)
    generator = torch.Generator().manual_seed(problem.seed + 1)
    mixing = torch.randn((weights.shape[1], RANDOM_DIRECTIONS), generator=generator, dtype=torch.float64)
    mixing /= torch.linalg.vector_norm(mixing, dim=0)
    combined = torch.cat([weights[:, :k], weights @ mixing], dim=1)
    kept = kept_rows(state, combined)
    bad = state.moments.first_row + np.flatnonzero(state.moments.bad)
    return Solved(result, stability, kept, scale, np.concatenate(job.world.gather(bad)))
