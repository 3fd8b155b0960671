"""Panel: consecutive rows on the device, as a read yields them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Panel:
    """Consecutive rows on the device.

    Attributes
    ----------
    start : global number of the first row
    count : rows of the store in it; those behind them are zero
    pieces : Tensors of shape (n, n_columns), the store's dtype, any row stride, panel_rows rows in all; valid until the
        next panel
    """

    start: int
    count: int
    pieces: tuple[Tensor, ...]

    @cached_property
    def rows(self) -> Tensor:
        """All rows as one Tensor of shape (panel_rows, n_columns); a copy where the pieces lie apart."""
        return self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces)

    @property
    def n_rows(self) -> int:
        """panel_rows, the padding of the last panel included."""
        return sum(map(len, self.pieces))


def gather(rows: Tensor, columns: tuple[slice, ...], out: Tensor) -> None:
    """Copy some columns of ``rows`` (n, n_features), side by side, into ``out`` (n, n_columns)."""
    at = 0
    for part in columns:
        width = part.stop - part.start
        out[:, at : at + width].copy_(rows[:, part])
        at += width
