"""From a stream to directions and kept rows: the stages of a job, whichever solver runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillaxes import memory
from skillaxes.cluster.shards import within
from skillaxes.cluster.world import ALONE, World
from skillaxes.config import DiscoverConfig
from skillaxes.errors import StoppedEarly
from skillaxes.pca import covariance, incremental, krylov
from skillaxes.pca.centering import Centering
from skillaxes.pca.moments import RowMoments
from skillaxes.pca.problem import PCAResult, Problem
from skillaxes.pca.projections import ProjectionStore
from skillaxes.pca.split_half import Stability, split_half
from skillaxes.pca.warm_start import WarmStart, as_shift, completed, warm_start
from skillaxes.planning import GIVEN, RANDOM_DIRECTIONS, Plan
from skillaxes.progress import Progress
from skillaxes.ranking.rows import KeptRows, kept_rows
from skillaxes.stream.panels import Panel, PanelStream
from skillaxes.stream.sample import sample_segments

_CONSTANT = 1e-6  # spread over distance from the provisional mean, squared, of a column that only rounding moves


@dataclass
class StageLog:
    """What the manifest says of the stages."""

    stages: list[dict[str, Any]] = field(default_factory=list)

    def run(self, name: str, stream: PanelStream, work: Callable[[], Any]) -> Any:
        """Do ``work`` and note what it took."""
        began, bytes_before, reads_before = time.perf_counter(), stream.bytes_read, stream.reads
        result = work()
        self.stages.append(
            {
                "name": name,
                "status": "done",
                "seconds": round(time.perf_counter() - began, 4),
                "reads": stream.reads - reads_before,
                "bytes": stream.bytes_read - bytes_before,
                "peak_memory_bytes": memory.peak(),
            }
        )
        return result

    def begin_anew(self) -> None:
        """Say that everything so far has to be done again."""
        for stage in self.stages:
            stage["status"] = "given up"


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


def solve(
    stream: PanelStream,
    config: DiscoverConfig,
    plan: Plan,
    layers: tuple[slice, ...],
    projections: ProjectionStore,
    log: StageLog,
    progress: Progress,
    world: World = ALONE,
) -> Solved:
    """Run the solver of ``plan`` over ``stream``.

    Parameters
    ----------
    layers : columns of each layer among those in use; empty where unknown
    projections : where the kept projections go
    """
    job = Stages(stream, config, plan, layers, projections, log, progress, world)
    sample = log.run("sample", stream, job.sample)
    scale = None
    if config.scale != "none":
        scale = log.run("column statistics", stream, lambda: job.column_scale(sample))
    if plan.solver == "krylov":
        n_directions = plan.block_size - krylov.UTILITY
        start = log.run("warm start", stream, lambda: warm_start(job.problem, sample, n_directions, scale, world))
    else:
        shift = warm_start(job.problem, sample, 0, scale, world).shift
        first = job.covariance if plan.solver == "covariance" else job.incremental
        start = log.run(f"read 1 ({plan.solver})", stream, lambda: first(shift, scale))
    world.broadcast_(start.shift)
    state = krylov.init(job.problem, start, projections, scale=scale, world=world)
    while not state.done:
        number = int(stream.reads) + 1
        state = log.run(f"read {number}", stream, partial(job.read, state, f"read {number}"))
        worst = float(krylov.relative_residuals(state).max())
        progress.note(f"read {number}: largest residual {worst:.1e} (tolerance {config.tolerance:.0e})")
    return log.run("directions", stream, lambda: job.finish(state, scale))


class Stages:
    """The stages that solvers are made of, and what they share."""

    def __init__(
        self,
        stream: PanelStream,
        config: DiscoverConfig,
        plan: Plan,
        layers: tuple[slice, ...],
        projections: ProjectionStore,
        log: StageLog,
        progress: Progress,
        world: World,
    ) -> None:
        self.stream, self.config, self.plan, self.progress, self.world = stream, config, plan, progress, world
        self.projections, self.log = projections, log
        single = plan.solver != "krylov"
        self.problem = Problem(
            n_rows=stream.store.n_rows,
            n_columns=stream.n_columns,
            n_components=config.components,
            block_size=plan.block_size,
            tolerance=config.tolerance,
            max_reads=1 if single else config.max_reads,
            min_reads=1 if single else 2,
            seed=config.seed,
            device=stream.device,
            panel_rows=plan.panel_rows,
            panel_dtype=stream.dtype,
            layers=layers,
            skip_bad_rows=config.bad_rows == "skip",
            exact_block=plan.solver == GIVEN,
        )

    def sample(self) -> Tensor:
        """The rows of this process that the warm start sees."""
        segments = sample_segments(self.problem.n_rows, self.plan.sample_rows, self.config.seed)
        return self.stream.sample(within(segments, (self.stream.first_row, self.stream.last_row)))

    def each_panel(self, name: str, work: Callable[[Panel], None]) -> None:
        """One read."""
        row_bytes = self.stream.store.n_features * self.stream.store.itemsize
        with (
            self.progress.stage(name, self.stream.n_rows, unit_bytes=row_bytes) as stage,
            contextlib.closing(self.stream.read()) as panels,  # a read that fails ends here, not when it is collected
        ):
            for panel in panels:
                work(panel)
                stage.advance(panel.count)
                if self.world.stopping:
                    raise StoppedEarly(f"{name} was stopped early")
        if not self.world.meet(name):
            raise StoppedEarly(f"{name} was stopped early")

    def read(self, state: krylov.KrylovState, name: str) -> krylov.KrylovState:
        """One read by the block Krylov iteration."""
        return krylov.end_read(self._pass(state, name))

    def read_once(self, state: krylov.KrylovState, name: str) -> krylov.KrylovState:
        """One read that leaves projections and products, and solves nothing."""
        return krylov.close_read(self._pass(state, name))

    def _pass(self, state: krylov.KrylovState, name: str) -> krylov.KrylovState:
        current = krylov.begin_read(state)

        def work(panel: Panel) -> None:
            nonlocal current
            current = krylov.update(current, panel)

        self.each_panel(name, work)
        return current

    def covariance(self, shift: Tensor, scale: Tensor | None) -> WarmStart:
        """One read for the covariance matrix."""
        stream = self.stream
        state = covariance.init(self.problem, shift, stream.first_row, stream.n_rows, scale=scale, world=self.world)

        def work(panel: Panel) -> None:
            covariance.update(state, panel)

        self.each_panel("read 1 (covariance)", work)
        return covariance.finalize(covariance.end_read(state))

    def incremental(self, shift: Tensor, scale: Tensor | None) -> WarmStart:
        """One read, batch by batch."""
        centering = Centering(self.problem, shift, scale)
        moments = RowMoments.empty(self.problem, self.stream.first_row, self.stream.n_rows)
        state = incremental.init(self.stream.n_columns, self.config.components, shift.to(self.stream.device))

        def work(panel: Panel) -> None:
            nonlocal state
            state = incremental.update(state, centering.rows(panel, moments))

        self.each_panel("read 1 (incremental)", work)
        state = incremental.merged(state, self.world)
        least = min(self.config.components, self.stream.n_columns)  # rows of lower rank give fewer
        block = completed(state.directions.double(), least, torch.Generator().manual_seed(self.config.seed))
        return WarmStart(as_shift(state.shift + state.mean, self.problem).cpu(), block, state.n_seen)

    def column_scale(self, sample: Tensor) -> Tensor:
        """One read for the spread of every column, of shape (d,), float32: what the columns are multiplied by."""
        shift = warm_start(self.problem, sample, 0, None, self.world).shift
        centering = Centering(self.problem, shift, None)
        moments = RowMoments.empty(self.problem, self.stream.first_row, self.stream.n_rows)
        sums = torch.zeros((2, self.stream.n_columns), dtype=torch.float64, device=self.stream.device)

        def work(panel: Panel) -> None:
            rows = centering.rows(panel, moments)
            sums[0] += rows.sum(dim=0, dtype=torch.float64)
            sums[1] += torch.linalg.vector_norm(rows, dim=0).double().square()

        self.each_panel("column statistics", work)
        self.world.sum_(sums)
        complete = moments.complete(sums[0], self.world)
        assert complete.delta is not None
        lost = complete.n_samples * complete.delta.square()
        variance = (sums[1] - lost).clamp(min=0) / complete.degrees
        variance[sums[1] - lost <= _CONSTANT * lost] = 0
        if self.config.scale == "layer-rms":
            for part in self.problem.layers:
                variance[part] = variance[part].mean()
        scale = torch.where(variance > 0, variance.clamp(min=1e-300).rsqrt(), 1.0).float()
        self.world.broadcast_(scale)
        return scale

    def finish(self, state: krylov.KrylovState, scale: Tensor | None) -> Solved:
        """Directions, stability and the rows for ranking, from what the reads left."""
        k, problem = self.config.components, self.problem
        result, weights = self.world.share(krylov.finalize(state))
        stability = split_half(state.grams, state.moments.bad, weights, k, problem.seed, self.world)
        generator = torch.Generator().manual_seed(problem.seed + 1)
        mixing = torch.randn((weights.shape[1], RANDOM_DIRECTIONS), generator=generator, dtype=torch.float64)
        mixing /= torch.linalg.vector_norm(mixing, dim=0)
        combined = torch.cat([weights[:, :k], weights @ mixing], dim=1)
        kept = kept_rows(state, combined)
        bad = state.moments.first_row + np.flatnonzero(state.moments.bad)
        return Solved(result, stability, kept, scale, np.concatenate(self.world.gather(bad)))
