"""Centred float32 rows of a panel, for the solvers that need the rows themselves and not only their projections."""

from __future__ import annotations

import torch
from torch import Tensor

import skillaxes_kernels as kernels
from skillaxes.pca.moments import RowMoments
from skillaxes.pca.problem import Problem
from skillaxes.stream import device as devices
from skillaxes.stream.device_outbox import Outbox
from skillaxes.stream.panels import Panel


class Centering:
    """Rows less the provisional mean, with the row moments noted on the way.

    Parameters
    ----------
    problem : the problem
    shift : Tensor of shape (d,), float64: the provisional mean
    scale : Tensor of shape (d,), float32, or None
    """

    def __init__(self, problem: Problem, shift: Tensor, scale: Tensor | None) -> None:
        self._shift = shift.to(problem.device)
        self._shift_square = self._shift.square().sum()
        self._scale = scale
        self._outbox = Outbox(devices.open_seam(problem.device))
        carried = torch.zeros((problem.n_columns, 16), dtype=torch.float64, device=problem.device)
        carried[:, 0] = self._shift
        high = kernels.round_directions(carried.float(), problem.panel_dtype, problem.device, scale)
        carried[:, 1] = carried[:, 0] - high[:, 0].double()
        carried[:, 0] = high[:, 0].double()
        carried = kernels.round_directions(carried.float(), problem.panel_dtype, problem.device, scale)
        spec = kernels.PanelSpec(problem.panel_rows, problem.n_columns, problem.panel_dtype, problem.device)
        backend = "cpu" if problem.device.type == "cpu" else "auto"  # the one there that leaves centred rows
        self._prepared = kernels.prepare(spec, carried, self._shift, scale, backend=backend)

    def rows(self, panel: Panel, moments: RowMoments) -> Tensor:
        """Centred rows that count, of shape (n, d), float32; noted in ``moments``. Valid until the next call."""
        projection = kernels.project(panel.pieces, self._prepared)
        carried = projection.dots[: panel.count, :2].sum(dim=1)
        moments.add(panel, projection, carried, self._shift_square, self._scale, self._outbox)
        self._outbox.drain()  # which rows count is asked at once
        rows = projection.rows[: panel.count]
        if projection.shift is not None:
            rows = rows.float() if self._scale is None else rows.float() * self._scale
            rows = rows - self._shift.float()
        good = moments.good(panel.start, panel.count, rows.device)
        return rows if bool(good.all()) else rows[good]
