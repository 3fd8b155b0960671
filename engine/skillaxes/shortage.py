"""A GPU that runs out of memory: the same job again, with smaller panels and fewer rows kept there."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from skillaxes.checkpointing import Checkpoint
from skillaxes.errors import DeviceMemoryError
from skillaxes.job import Job
from skillaxes.pca.projections import ProjectionStore
from skillaxes.planning import Plan, smaller
from skillaxes.progress import Progress
from skillaxes.solve import Solved
from skillaxes.stage_log import StageLog
from skillaxes.stages import Stages
from skillaxes.stream.panels import PanelStream

Solver = Callable[[Stages], Solved]


def within_memory(
    job: Job,
    stream: PanelStream,
    solver: Solver,
    projections: ProjectionStore,
    log: StageLog,
    progress: Progress,
    checkpoint: Checkpoint,
) -> tuple[Solved, Plan, list[dict[str, Any]]]:
    """Run ``solver``; where the GPU runs out of memory, begin anew with half the rows a panel and half the rows kept,
    or go on from the last complete stage that is in the checkpoint.

    Returns
    -------
    solved : what the solver made
    plan : what it followed in the end
    shortages : one record for each time that memory ran out: the panels and kept rows that were too many, those that
        came next, and what the GPU said

    Raises
    ------
    DeviceMemoryError : the smallest panels were too large; or there are other processes, which are somewhere else in
        the read and whose panels would have to become smaller too
    """
    plan, shortages = job.plan, list[dict[str, Any]]()
    while True:
        try:
            checkpoint.open(stream)
            stages = Stages(job, stream, plan, projections, log, progress, checkpoint)
            return solver(stages), plan, shortages
        except torch.OutOfMemoryError as error:
            if plan.gpu is None:
                raise
            said = " ".join(str(error).split())
        if job.world.size > 1:
            raise DeviceMemoryError(
                f"{plan.device} ran out of memory with panels of {plan.panel_rows:,} rows and {plan.gpu.kept_rows:,} "
                f"rows kept there ({said}); {job.world.size} processes cannot begin anew with smaller ones: end what "
                "else uses the GPU and type the same command again, or add --device cpu"
            )
        row_bytes = stream.n_columns * stream.dtype.itemsize
        less = smaller(plan, row_bytes)
        if less is None:
            raise DeviceMemoryError(
                f"{plan.device} has no room for panels of {plan.panel_rows} rows: {said}; end what else uses it, or "
                "type --device cpu"
            )
        assert less.gpu is not None
        shortages.append(
            {
                "panel_rows": plan.panel_rows,
                "kept_rows": plan.gpu.kept_rows,
                "next_panel_rows": less.panel_rows,
                "next_kept_rows": less.gpu.kept_rows,
                "said": said,
            }
        )
        progress.note(announced(shortages[-1])["text"])
        log.begin_anew()
        projections.close()
        gc.collect()  # what the solver held on the GPU
        stream.shrink(less.panel_rows, less.gpu.kept)
        plan = less


def announced(shortage: dict[str, Any]) -> dict[str, Any]:
    """A shortage as a manifest announces it."""
    text = (
        f"the GPU ran out of memory with panels of {shortage['panel_rows']:,} rows and {shortage['kept_rows']:,} rows "
        f"kept there; begun anew with panels of {shortage['next_panel_rows']:,} rows and "
        f"{shortage['next_kept_rows']:,} kept"
    )
    return {"kind": "gpu_memory", "text": text, "values": shortage}
