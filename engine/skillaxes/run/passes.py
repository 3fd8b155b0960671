"""One resumable read of the store: the loop over panels, and what the stages of a job share."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from skillaxes.cluster.launch import clip_segments
from skillaxes.pca.base import Problem, Reduction, Scope
from skillaxes.pca.column_scale import ColumnScaleRead
from skillaxes.pca.projections import ProjectionStore
from skillaxes.pca.warm_start import WarmStart, warm_start
from skillaxes.progress import Progress
from skillaxes.run.checkpoint import Checkpoint
from skillaxes.run.job import Job
from skillaxes.run.plan import Plan
from skillaxes.run.stage_log import StageLog
from skillaxes.stream import device as devices
from skillaxes.stream.device import DeferredResults
from skillaxes.stream.panels import PanelStream, sample_segments

Read = TypeVar("Read", bound=Reduction)


@dataclass(frozen=True)
class Context:
    """One attempt at a job.

    Attributes
    ----------
    job : on what, how and with whom
    plan : the job's, or a smaller one where a GPU's memory has run out
    stream : the rows of this process
    projections : where the kept projections go
    checkpoint, log, progress : where the stages are put on record, noted and shown
    problem : the job's, as it is planned
    """

    job: Job
    plan: Plan
    stream: PanelStream
    projections: ProjectionStore
    checkpoint: Checkpoint
    log: StageLog
    progress: Progress
    problem: Problem = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "problem", self.plan.problem(self.job.problem))

    def scope(self, scale: Tensor | None) -> Scope:
        """What a solver works with."""
        results = DeferredResults(devices.device_streams(self.stream.device))
        return Scope(self.job.world, self.projections, results, scale)


def run_read(context: Context, name: str, read: Read) -> Read:
    """One read of the store, or what an earlier attempt has left of it; every panel goes into ``read``.

    Raises
    ------
    StoppedEarly : the job is to stop
    """
    stream, checkpoint = context.stream, context.checkpoint
    row_bytes = stream.store.n_features * stream.store.itemsize
    read.begin()
    row = checkpoint.begin_read(name, read, stream.panel_rows)
    with (
        context.progress.stage(name, stream.n_rows, unit_bytes=row_bytes) as stage,
        contextlib.closing(stream.read(row)) as panels,  # a read that fails ends here, not when it is collected
    ):
        if row > stream.first_row:
            stage.advance(row - stream.first_row)
        for panel in panels:
            read.update(panel)
            done, count = panel.start + panel.count, panel.count
            del panel  # so that its rows are unmapped by the thread that reads, and not here
            stage.advance(count)
            checkpoint.after_panel(done)
    if not context.job.world.barrier_or_stop(name):
        checkpoint.stop()
    return read


def read_sample(context: Context) -> tuple[Tensor, ...]:
    """The rows that the warm start sees, those of this process, in pieces."""
    stream, plan = context.stream, context.plan
    segments = sample_segments(context.problem.n_rows, plan.sample_rows, context.problem.options.seed)
    rows = stream.sample_views(clip_segments(segments, (stream.first_row, stream.last_row)))
    if not context.job.world.barrier_or_stop("sample"):
        context.checkpoint.stop_between("sample")
    return rows


def start_from(context: Context, sample: Sequence[Tensor], n_directions: int, scale: Tensor | None) -> WarmStart:
    """Where a solver begins, the same in every process."""
    return warm_start(context.problem, sample, n_directions, scale, context.job.world)


def find_scale(context: Context, sample: Sequence[Tensor]) -> Tensor:
    """One read for the factor of every column, of shape (d,), float32."""
    shift = start_from(context, sample, 0, None).shift
    read = ColumnScaleRead(context.problem, shift, context.scope(None))
    return run_read(context, read.title, read).finish()
