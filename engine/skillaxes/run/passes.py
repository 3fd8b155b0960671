"""Stages of a job before the solver is done: the sample, the warm start, and the one loop over panels."""

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
    job : the job
    plan : the plan of the job, or one with smaller panels after a GPU ran out of memory
    stream : the rows of this process
    projections : the tables of kept projections
    checkpoint, log, progress : checkpoint, stages and progress of the job
    problem : the problem of the job with the panels and blocks of the plan
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
        """The surroundings of a solver, for rows with columns times ``scale`` (d,), float32, or None."""
        results = DeferredResults(devices.device_streams(self.stream.device))
        return Scope(self.job.world, self.projections, results, scale)


def run_read(context: Context, name: str, read: Read) -> Read:
    """Pass every panel of the store to ``read``, from the row of the checkpoint on.

    Parameters
    ----------
    name : name of the stage

    Raises
    ------
    BadRowsError, StoreError : rows that cannot be used
    StoppedEarly : a stop was requested
    """
    stream, checkpoint = context.stream, context.checkpoint
    row_bytes = stream.store.n_features * stream.store.itemsize
    read.begin()
    row = checkpoint.begin_read(name, read, stream.panel_rows)
    with (
        context.progress.stage(name, stream.n_rows, unit_bytes=row_bytes) as stage,
        contextlib.closing(stream.read(row)) as panels,  # a failed read ends here, not at garbage collection
    ):
        if row > stream.first_row:
            stage.advance(row - stream.first_row)
        for panel in panels:
            read.update(panel)
            done, count = panel.start + panel.count, panel.count
            del panel  # the thread that reads unmaps its rows, not this one
            stage.advance(count)
            checkpoint.after_panel(done)
    if not context.job.world.barrier_or_stop(name):
        checkpoint.stop()
    return read


def read_sample(context: Context) -> tuple[Tensor, ...]:
    """The rows of this process in the sample of the warm start: tensors of shape (n, D), on the host.

    Raises
    ------
    StoreError : rows that cannot be read
    StoppedEarly : a stop was requested
    """
    stream, plan = context.stream, context.plan
    segments = sample_segments(context.problem.n_rows, plan.sample_rows, context.problem.options.seed)
    rows = stream.sample_views(clip_segments(segments, (stream.first_row, stream.last_row)))
    if not context.job.world.barrier_or_stop("sample"):
        context.checkpoint.stop_between("sample")
    return rows


def start_from(context: Context, sample: Sequence[Tensor], n_directions: int, scale: Tensor | None) -> WarmStart:
    """The start of a solver, the same in every process."""
    return warm_start(context.problem, sample, n_directions, scale, context.job.world)


def find_scale(context: Context, sample: Sequence[Tensor]) -> Tensor:
    """The factor of each column, of shape (d,), float32, from one read."""
    shift = start_from(context, sample, 0, None).shift
    read = ColumnScaleRead(context.problem, shift, context.scope(None))
    return run_read(context, read.title, read).finish()
