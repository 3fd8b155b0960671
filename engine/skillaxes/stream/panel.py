"""What a read hands out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Panel:
    """Consecutive rows on the device.

    Attributes
    ----------
    start : global number of the first row
    count : rows of the store in it; the rest of ``rows`` is zero
    rows : Tensor of shape (panel_rows, n_columns), the store's dtype, any row stride; valid until the next panel
    """

    start: int
    count: int
    rows: Tensor


def gather(rows: Tensor, columns: tuple[slice, ...], out: Tensor) -> None:
    """The columns in use of ``rows`` (n, n_features), side by side, into ``out`` (n, n_columns)."""
    at = 0
    for part in columns:
        width = part.stop - part.start
        out[:, at : at + width].copy_(rows[:, part])
        at += width
