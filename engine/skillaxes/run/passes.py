"""The stages that solvers are made of: reads that can be left at a panel and gone on with, and what lies between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from skillaxes.cluster.launch import clip_segments
from skillaxes.pca import covariance, incremental, krylov, saving
from skillaxes.pca.base import Problem
from skillaxes.pca.projections import ProjectionStore
from skillaxes.pca.row_moments import Centering, RowMoments
from skillaxes.pca.warm_start import WarmStart, as_shift, completed, warm_start
from skillaxes.progress import Progress
from skillaxes.run.checkpoint import Accumulator, Checkpoint
from skillaxes.run.job import Job
from skillaxes.run.plan import GIVEN, Plan
from skillaxes.run.stage_log import StageLog
from skillaxes.stream.panel import Panel
from skillaxes.stream.panels import PanelStream, sample_segments

_CONSTANT = 1e-6  # spread over distance from the provisional mean, squared, of a column that only rounding moves


class Stages:
    """The stages that solvers are made of, and what they share.

    Parameters
    ----------
    job : on what, how and with whom
    stream : the rows of this process
    plan : the job's, or a smaller one where a GPU's memory has run out
    projections : where the kept projections go
    log, progress, checkpoint : where the stages are noted, shown and put on record
    """

    def __init__(
        self,
        job: Job,
        stream: PanelStream,
        plan: Plan,
        projections: ProjectionStore,
        log: StageLog,
        progress: Progress,
        checkpoint: Checkpoint,
    ) -> None:
        config = job.config
        self.stream, self.config, self.plan, self.progress, self.world = stream, config, plan, progress, job.world
        self.projections, self.log, self.checkpoint = projections, log, checkpoint
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
            layers=job.layers,
            skip_bad_rows=config.bad_rows == "skip",
            exact_block=plan.solver == GIVEN,
        )

    def sample(self) -> tuple[Tensor, ...]:
        """The rows that the warm start sees, those of this process, in pieces."""
        segments = sample_segments(self.problem.n_rows, self.plan.sample_rows, self.config.seed)
        rows = self.stream.lent(clip_segments(segments, (self.stream.first_row, self.stream.last_row)))
        if not self.world.barrier_or_stop("sample"):
            self.checkpoint.stop_between("sample")
        return rows

    def warm_start(self, sample: Sequence[Tensor], n_directions: int, scale: Tensor | None) -> WarmStart:
        """Where the solver begins, the same in every process."""
        return warm_start(self.problem, sample, n_directions, scale, self.world)

    def each_panel(self, name: str, work: Callable[[Panel], None], into: Accumulator) -> None:
        """One read, or what an earlier attempt has left of it.

        Raises
        ------
        StoppedEarly : the job is to stop
        """
        stream, checkpoint = self.stream, self.checkpoint
        row_bytes = stream.store.n_features * stream.store.itemsize
        row = checkpoint.begin_read(name, into, stream.panel_rows)
        with (
            self.progress.stage(name, stream.n_rows, unit_bytes=row_bytes) as stage,
            contextlib.closing(stream.read(row)) as panels,  # a read that fails ends here, not when it is collected
        ):
            if row > stream.first_row:
                stage.advance(row - stream.first_row)
            for panel in panels:
                work(panel)
                done, count = panel.start + panel.count, panel.count
                del panel  # so that its rows are unmapped by the thread that reads, and not here
                stage.advance(count)
                checkpoint.after_panel(done)
        if not self.world.barrier_or_stop(name):
            checkpoint.stop()

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

        def load(sums: dict[str, Any]) -> None:
            nonlocal current
            current = saving.krylov_with(current, sums)

        self.each_panel(name, work, Accumulator(lambda: saving.krylov_sums(current), load, saving.read_tables(current)))
        return current

    def krylov_at(self, start: WarmStart, scale: Tensor | None) -> krylov.KrylovState:
        """The block Krylov iteration before its first read, or where an earlier attempt left it."""
        state = krylov.init(self.problem, start, self.projections, scale=scale, world=self.world)
        saved = self.checkpoint.results.get("krylov")
        if saved is not None:
            state = saving.krylov_loaded(saved, state)
            self.checkpoint.restore_rows(saving.krylov_tables(state))
            self.checkpoint.results = {}
        return state

    def start_found(self) -> WarmStart | None:
        """Where the solver began, if an earlier attempt has found it."""
        results = self.checkpoint.results
        if "krylov" in results and "start" not in results:
            return WarmStart(results["krylov"]["shift"], results["krylov"]["next_block"], 0)
        return saving.start_loaded(results["start"], self.stream.device) if "start" in results else None

    def after_start(self, start: WarmStart, scale: Tensor | None, *, read: bool) -> None:
        """Put on record where the solver begins."""
        self.checkpoint.finish(lambda: {"scale": _own(scale), "start": saving.start_saved(start)}, read=read)

    def after_read(self, state: krylov.KrylovState, start: WarmStart, scale: Tensor | None, *, last: bool) -> None:
        """Put on record what a Krylov read has left; ``start`` too, where later reads come back to it."""
        self.checkpoint.finish(
            lambda: (
                {"scale": _own(scale), "krylov": saving.krylov_saved(state)}
                | ({"start": saving.start_saved(start)} if self.problem.exact_block else {})
            ),
            saving.krylov_tables(state),
            last=last,
        )

    def covariance(self, shift: Tensor, scale: Tensor | None) -> WarmStart:
        """One read for the covariance matrix."""
        stream = self.stream
        state = covariance.init(self.problem, shift, stream.first_row, stream.n_rows, scale=scale, world=self.world)
        into = Accumulator(
            lambda: saving.covariance_sums(state),
            lambda sums: saving.covariance_load(state, sums),
            {"rows-covariance": saving.MomentRows(state.moments)},
        )

        def work(panel: Panel) -> None:
            covariance.update(state, panel)

        self.each_panel("read 1 (covariance)", work, into)
        return covariance.finalize(covariance.end_read(state))

    def incremental(self, shift: Tensor, scale: Tensor | None) -> WarmStart:
        """One read, batch by batch."""
        centering = Centering(self.problem, shift, scale)
        moments = RowMoments.empty(self.problem, self.stream.first_row, self.stream.n_rows)
        state = incremental.init(self.stream.n_columns, self.config.components, shift.to(self.stream.device))

        def work(panel: Panel) -> None:
            nonlocal state
            state = incremental.update(state, centering.rows(panel, moments))

        def load(sums: dict[str, Any]) -> None:
            nonlocal state
            state = saving.incremental_with(state, sums)

        self.each_panel("read 1 (incremental)", work, Accumulator(lambda: saving.incremental_saved(state), load))
        state = incremental.merged(state, self.world)
        least = min(self.config.components, self.stream.n_columns)  # rows of lower rank give fewer
        block = completed(state.directions.double(), least, torch.Generator().manual_seed(self.config.seed))
        return WarmStart(as_shift(state.shift + state.mean, self.problem).cpu(), block, state.n_seen)

    def column_scale(self, sample: Sequence[Tensor]) -> Tensor:
        """One read for the spread of every column, of shape (d,), float32: what the columns are multiplied by."""
        shift = warm_start(self.problem, sample, 0, None, self.world).shift
        centering = Centering(self.problem, shift, None)
        moments = RowMoments.empty(self.problem, self.stream.first_row, self.stream.n_rows)
        sums = torch.zeros((2, self.stream.n_columns), dtype=torch.float64, device=self.stream.device)

        def work(panel: Panel) -> None:
            rows = centering.rows(panel, moments)
            sums[0] += rows.sum(dim=0, dtype=torch.float64)
            sums[1] += torch.linalg.vector_norm(rows, dim=0).double().square()

        def load(saved: dict[str, Any]) -> None:
            sums.copy_(saved["sums"])
            moments.layer_squares.copy_(saved["layer_squares"])

        into = Accumulator(
            lambda: {"sums": saving.own(sums), "layer_squares": saving.own(moments.layer_squares)},
            load,
            {"rows-scale": saving.MomentRows(moments)},
        )
        self.each_panel("column statistics", work, into)
        self.world.all_reduce_(sums)
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


def _own(scale: Tensor | None) -> Tensor | None:
    return None if scale is None else saving.own(scale)
