"""The store as a sequence of panels on the device, within a memory budget; counts bytes and reads.

Panels begin at multiples of ``panel_rows`` whatever the chunks are, and the last one is filled up with zero rows, so
that every row meets the same matrix product however the store is chunked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skillaxes.stream.device import Uploader
from skillaxes.stream.reader import TORCH_DTYPES, Reader

if TYPE_CHECKING:
    from skillaxes.store import Store


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


class PanelStream:
    """Reads of a part of a store.

    Parameters
    ----------
    store : what to read
    columns : the columns to use, as slices; None for all
    panel_rows : rows a panel
    device : where the panels are to lie
    cache_bytes : memory for decoded units that later reads take from there
    rows : (first, last) of the part, last excluded; None for the whole store
    """

    def __init__(
        self,
        store: Store,
        *,
        panel_rows: int,
        device: torch.device,
        columns: Sequence[slice] | None = None,
        cache_bytes: int = 0,
        rows: tuple[int, int] | None = None,
    ) -> None:
        self.store = store
        self.device = device
        self.panel_rows = panel_rows
        self.first_row, self.last_row = rows if rows is not None else (0, store.n_rows)
        self.columns = tuple(columns) if columns is not None else (slice(0, store.n_features),)
        self.n_columns = sum(part.stop - part.start for part in self.columns)
        self.dtype = TORCH_DTYPES[store.dtype]
        self.reader = Reader(
            store, self.first_row, self.last_row, cache_bytes=cache_bytes, pinned=device.type == "cuda"
        )
        self._uploader = Uploader(device)
        self._buffer: Tensor | None = None
        self.reads = 0.0

    @property
    def n_rows(self) -> int:
        return self.last_row - self.first_row

    @property
    def bytes_read(self) -> int:
        """Bytes fetched from the store so far."""
        return self.reader.bytes_read

    @property
    def rows_read_twice(self) -> int:
        """Sampled rows that had to be fetched from the store again."""
        return self.reader.rows_read_twice

    def read(self) -> Iterator[Panel]:
        """One read: every row once, in order."""
        verify = self.reads < 1
        if self._buffer is None:
            self._buffer = torch.empty(
                (self.panel_rows, self.n_columns), dtype=self.dtype, pin_memory=self.device.type == "cuda"
            )
        buffer, size = self._buffer, self.panel_rows
        direct = len(self.columns) == 1
        filled = 0
        for start, block in self.reader.units(verify=verify):
            at = 0
            while at < len(block):
                if direct and filled == 0 and len(block) - at >= size:
                    yield self._panel(start + at, size, block[at : at + size, self.columns[0]])
                    at += size
                    continue
                take = min(size - filled, len(block) - at)
                self._gather(block[at : at + take], buffer[filled : filled + take])
                filled += take
                at += take
                if filled == size:
                    yield self._panel(start + at - size, size, buffer)
                    filled = 0
            self._uploader.release()
        if filled:
            buffer[filled:] = 0
            yield self._panel(self.last_row - filled, filled, buffer)
        self.reads += 1

    def sample(self, segments: Sequence[tuple[int, int]]) -> Tensor:
        """The rows of some (start, stop) segments, of shape (n, n_columns), on the host, in the store's dtype."""
        total = sum(stop - start for start, stop in segments)
        rows = torch.empty((total, self.n_columns), dtype=self.dtype)
        whole = self.n_columns == self.store.n_features
        at = 0
        for start, stop in segments:
            target = rows[at : at + stop - start]
            if whole:
                self.reader.rows(start, stop, target)
            else:
                full = torch.empty((stop - start, self.store.n_features), dtype=self.dtype)
                self.reader.rows(start, stop, full)
                self._gather(full, target)
            at += stop - start
        return rows

    def _gather(self, rows: Tensor, out: Tensor) -> None:
        at = 0
        for part in self.columns:
            width = part.stop - part.start
            out[:, at : at + width].copy_(rows[:, part])
            at += width

    def _panel(self, start: int, count: int, rows: Tensor) -> Panel:
        return Panel(start, count, self._uploader.upload(rows))
