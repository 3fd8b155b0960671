"""Moments of the rows from the first read: count, norms, mean and total variance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import skillaxes_kernels as kernels
from skillaxes.cluster.world import World
from skillaxes.errors import BadRowsError, StoreError
from skillaxes.pca.base import Problem, compact
from skillaxes.stream import device as devices
from skillaxes.stream.device import DeferredResults
from skillaxes.stream.panel import Panel

_EQUAL = 1e-6  # variance over squared distance from the provisional mean: below it rows differ by rounding alone
_CANCELLATION = 1e-3  # |x|² over |x - m|²: below it float32 has lost too many digits of |x|²
_NAMED = 8  # bad rows that a message names


@dataclass(frozen=True)
class RowMoments:
    """Moments of each row and of all rows; :meth:`add` fills the arrays panel by panel, :meth:`complete` the rest.

    Attributes
    ----------
    norm : ndarray of shape (n_local,), float32: |x|
    shifted_square : ndarray of shape (n_local,), float32: |x - m|²
    bad : ndarray of shape (n_local,), bool: rows with NaN or infinity
    layer_squares : Tensor of shape (n_layers,), float64: sums of (x - m)² by layer
    n_samples : rows that count, of all processes; 0 until complete
    delta : Tensor of shape (d,), float64: mean - m; None until complete
    total_variance : trace of the covariance
    layer_variance : Tensor of shape (n_layers,), float64: variance summed over the columns of each layer
    """

    problem: Problem
    first_row: int
    norm: np.ndarray
    shifted_square: np.ndarray
    bad: np.ndarray
    layer_squares: Tensor
    n_samples: int = 0
    delta: Tensor | None = None
    total_variance: float = 0.0
    layer_variance: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))

    @classmethod
    def empty(cls, problem: Problem, first_row: int, n_local: int) -> RowMoments:
        """The moments before any panel."""
        return cls(
            problem,
            first_row,
            np.zeros(n_local, np.float32),
            np.zeros(n_local, np.float32),
            np.zeros(n_local, bool),
            torch.zeros(len(problem.layers), dtype=torch.float64, device=problem.device),
        )

    @property
    def degrees(self) -> int:
        """n - 1, at least 1."""
        return max(self.n_samples - 1, 1)

    def add(
        self,
        panel: Panel,
        projection: kernels.Projection,
        carried: Tensor,
        shift_square: Tensor,
        scale: Tensor | None,
        results: DeferredResults,
    ) -> None:
        """Add the rows of a panel.

        Parameters
        ----------
        projection : the projection of the panel, with norms and bad rows
        carried : Tensor of shape (count,): (x - m)·m
        shift_square : Tensor of shape (), float64: |m|²
        scale : Tensor of shape (d,), float32: the factor of each column, or None
        results : results on their way to the host

        Raises
        ------
        BadRowsError : rows with NaN or infinity in this panel or an earlier one, unless they are to be skipped
        """
        count = panel.count
        bad = projection.bad[:count]
        squares = projection.sq_norms[:count].double()
        raw = squares + 2 * carried.double() + shift_square
        doubtful = (raw < _CANCELLATION * squares) & ~bad
        if results.deferred:  # without waiting for the device: norms of all rows
            rows = panel.rows[:count] if scale is None else panel.rows[:count] * scale
            dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
            raw = torch.where(doubtful, torch.linalg.vector_norm(rows, dim=1, dtype=dtype).double().square(), raw)
        elif bool(doubtful.any()):
            rows = panel.rows[:count][doubtful].double()
            raw[doubtful] = (rows if scale is None else rows * scale).square().sum(dim=1)
        raw = raw.masked_fill_(bad, 0).clamp(min=0)
        squares = squares.masked_fill_(bad, 0).float()
        results.submit(partial(self._note, panel.start), raw, squares, bad, projection.overflowed[:count])
        if self.problem.layers:
            self.layer_squares.add_(kernels.group_sq_norms(projection, self.problem.layers)[:count].sum(dim=0))

    def _note(self, start: int, raw: Tensor, squares: Tensor, bad: Tensor, overflowed: Tensor) -> None:
        place = slice(start - self.first_row, start - self.first_row + len(raw))
        if bool(bad.any()):
            self._note_bad(start, bad, overflowed)
        # By numpy: torch gives roots of any length to all threads, and waits for one whose core fetches chunks.
        self.norm[place] = np.sqrt(raw.numpy())
        self.shifted_square[place] = squares.numpy()

    def good(self, start: int, count: int, device: torch.device) -> Tensor:
        """Whether each of ``count`` rows counts, of shape (count,), bool, on ``device``."""
        at = start - self.first_row
        return torch.from_numpy(~self.bad[at : at + count]).to(device)

    def known_bad(self, panel: Panel) -> Tensor:
        """The bad rows of a panel, of shape (b,), bool, on the host; after the first read."""
        bad = torch.zeros(panel.n_rows, dtype=torch.bool)
        at = panel.start - self.first_row
        bad[: panel.count] = torch.from_numpy(self.bad[at : at + panel.count])
        return bad

    def complete(self, sums: Tensor, world: World, needed: int) -> RowMoments:
        """The moments with those of all rows of all processes.

        Parameters
        ----------
        sums : Tensor of shape (d,), float64: sums of x - m over the rows of all processes
        needed : the fewest rows that must count

        Raises
        ------
        BadRowsError : fewer than ``needed`` rows count
        StoreError : all rows are equal
        """
        counts = torch.tensor(
            [float(len(self.bad) - self.bad.sum()), float(self.shifted_square.sum(dtype=np.float64))],
            dtype=torch.float64,
        )
        squares = self.layer_squares.clone()
        world.all_reduce_(counts, squares)
        n_samples = int(counts[0])
        if n_samples < needed:
            raise BadRowsError(
                f"{n_samples:,} rows are finite: {self.problem.n_components} components need at least {needed:,}; "
                "mend the store, or ask for fewer with --components"
            )
        delta = sums / n_samples
        degrees = n_samples - 1
        spread = float(counts[1]) - n_samples * float(delta.square().sum())
        if spread <= _EQUAL * float(counts[1]):
            raise StoreError(
                f"all {n_samples:,} rows are equal, or nearer to each other than float32 can tell: there are no "
                "directions to find; check what was captured, or multiply the matrix by a constant"
            )
        total = spread / degrees
        offset = torch.stack([delta[part].square().sum() for part in self.problem.layers]) if self.problem.layers else 0
        layer_variance = (squares - n_samples * offset) / degrees
        return replace(
            self, n_samples=n_samples, delta=delta, total_variance=total, layer_variance=layer_variance.clamp(min=0)
        )

    def state_dict(self) -> dict[str, Any]:
        """The moments of all rows, as plain values; those of each row are in :class:`MomentRows`."""
        return {
            "n_samples": self.n_samples,
            "delta": None if self.delta is None else compact(self.delta),
            "total_variance": self.total_variance,
            "layer_variance": compact(self.layer_variance),
        }

    def loaded(self, saved: dict[str, Any]) -> RowMoments:
        """The moments with the saved ones of all rows."""
        device = self.problem.device
        return replace(
            self,
            n_samples=saved["n_samples"],
            delta=None if saved["delta"] is None else saved["delta"].to(device),
            total_variance=saved["total_variance"],
            layer_variance=saved["layer_variance"].to(device),
        )

    def _note_bad(self, start: int, bad: Tensor, overflowed: Tensor) -> None:
        rows = start + bad.nonzero()[:, 0].numpy()
        self.bad[rows - self.first_row] = True
        if not self.problem.skip_bad_rows:
            named = ", ".join(f"{row:,}" for row in rows[:_NAMED])
            what, remedy = "NaN or infinity", "mend the store"
            if bool(overflowed.any()):
                what, remedy = "a norm beyond float32 (1.8e19)", "divide the matrix by a constant"
            more = f" and {len(rows) - _NAMED} more close by" if len(rows) > _NAMED else ""
            raise BadRowsError(
                f"{what} in row {named}{more}: {remedy}, or leave such rows out with --bad-rows skip",
                tuple(int(row) for row in rows),
            )


class MomentRows:
    """The table of norm, squared distance from the provisional mean and bad flag: three float32 numbers a row."""

    width = 3

    def __init__(self, moments: RowMoments) -> None:
        self._moments = moments
        self.first_row, self.n_rows = moments.first_row, len(moments.norm)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` (global), of shape (stop - start, 3), float32."""
        place = slice(start - self.first_row, stop - self.first_row)
        columns = (self._moments.norm[place], self._moments.shifted_square[place], self._moments.bad[place])
        return np.stack(columns, axis=1, dtype=np.float32)

    def write(self, start: int, rows: np.ndarray) -> None:
        """Put ``rows`` of shape (n, 3) at global row ``start``."""
        place = slice(start - self.first_row, start - self.first_row + len(rows))
        self._moments.norm[place], self._moments.shifted_square[place] = rows[:, 0], rows[:, 1]
        self._moments.bad[place] = rows[:, 2] != 0


class Centering:
    """Subtracts the provisional mean from rows and adds them to the row moments.

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
        self._results = DeferredResults(devices.device_streams(problem.device))
        carried = torch.zeros((problem.n_columns, 16), dtype=torch.float64, device=problem.device)
        carried[:, 0] = self._shift
        high = kernels.round_directions(carried.float(), problem.dtype, problem.device, scale)
        carried[:, 1] = carried[:, 0] - high[:, 0].double()
        carried[:, 0] = high[:, 0].double()
        carried = kernels.round_directions(carried.float(), problem.dtype, problem.device, scale)
        spec = kernels.PanelSpec(problem.panel_rows, problem.n_columns, problem.dtype, problem.device)
        backend = "cpu" if problem.device.type == "cpu" else "auto"  # the only one there that returns centred rows
        self._prepared = kernels.prepare(spec, carried, self._shift, scale, backend=backend)

    def rows(self, panel: Panel, moments: RowMoments) -> Tensor:
        """The centred rows that count, of shape (n, d), float32, valid until the next call.

        All rows of the panel are added to ``moments``.

        Raises
        ------
        BadRowsError : rows with NaN or infinity, unless they are to be skipped
        """
        projection = kernels.project(panel.pieces, self._prepared)
        carried = projection.dots[: panel.count, :2].sum(dim=1)
        moments.add(panel, projection, carried, self._shift_square, self._scale, self._results)
        self._results.flush()  # `moments.good` needs the bad rows of this panel
        rows = projection.rows[: panel.count]
        if projection.shift is not None:
            rows = rows.float() if self._scale is None else rows.float() * self._scale
            rows = rows - self._shift.float()
        good = moments.good(panel.start, panel.count, rows.device)
        return rows if bool(good.all()) else rows[good]
