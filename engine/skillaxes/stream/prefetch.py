"""Panels on a GPU: a ring of panels that are filled ahead, panels that stay resident, and how memory is shared out.

The size of a panel follows from the card and the matrix alone, so that how much memory happens to be free changes no
bit of a result. Only the number of resident rows follows from free memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from skillaxes.stream.device import COMPUTE, COPY, DeviceStreams, Event
from skillaxes.stream.panel import Panel, gather

LEAST_PANEL_ROWS, MOST_PANEL_ROWS = 64, 16384
LOOK_AHEAD = 2  # panels on their way while one is worked on: the host needs the time of one to hand over the next
LAG = 1  # fetch units that stay untouched behind the one being copied, so that the host never waits for the last copy
_STEP = 128  # rows that a tile of the kernels takes at most
_RESERVE_SHARE, _LEAST_RESERVE = 0.05, 512 << 20  # for the libraries' workspaces, and what fragmentation takes


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the GPU, by purpose.

    Attributes
    ----------
    total, free : the card's memory, and the part that was free when the job was planned
    reserve : left alone
    working : bases, products, sums and temporaries of the solver
    ring : panels on their way
    kept : resident panels; ``kept_rows`` is their number of rows
    l2 : the cache that panels are sized for
    """

    total: int
    free: int
    reserve: int
    working: int
    ring: int
    kept: int
    kept_rows: int
    l2: int


def panel_rows_for(row_bytes: int, l2_bytes: int) -> int:
    """Rows a panel: half of the L2, so that the second product finds there the rows that the first one read."""
    rows = l2_bytes // 2 // row_bytes
    if rows < _STEP:
        return LEAST_PANEL_ROWS
    return min(rows // _STEP * _STEP, MOST_PANEL_ROWS)


def plan_device(streams: DeviceStreams, *, n_rows: int, panel_rows: int, row_bytes: int, working: int) -> DeviceMemory:
    """The device's memory, shared out; ``row_bytes`` counts the columns in use."""
    total, free = streams.total_bytes(), streams.free_bytes()
    reserve = min(max(int(_RESERVE_SHARE * total), _LEAST_RESERVE), total // 4)
    panel_bytes = panel_rows * row_bytes
    ring = (LOOK_AHEAD + 1) * panel_bytes
    panels = min(max(free - reserve - working - ring, 0) // panel_bytes, -(-n_rows // panel_rows))
    return DeviceMemory(
        total=total,
        free=free,
        reserve=reserve,
        working=working,
        ring=ring,
        kept=panels * panel_bytes,
        kept_rows=min(panels * panel_rows, n_rows),
        l2=streams.l2_bytes(),
    )


class Source(Protocol):
    """A reader of fetch units: ``reader.Reader`` or ``gds.DirectReader``."""

    @property
    def on_device(self) -> bool:
        """Whether fetch units lie in device memory already."""

    def fetch_units(self, *, verify: bool, from_row: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) in order; a unit is valid until ``LAG + 1`` further ones were asked for."""


@dataclass
class _Buffer:
    """Device memory of one panel of the ring; host memory to gather its columns in where only some are used."""

    rows: Tensor
    staging: Tensor | None
    used: Event  # in COMPUTE, behind the last kernel that reads ``rows``
    left: Event  # in COPY, behind the last copy out of ``staging``


@dataclass(frozen=True)
class _Arriving:
    panel: Panel
    arrived: Event  # in COPY, behind the last copy into the panel
    buffer: _Buffer | None  # None for a resident panel


class DevicePrefetcher:
    """Reads of a part of a store as panels on a device.

    Parameters
    ----------
    streams : of the device
    rows : (first, last) of the part, last excluded
    columns : the columns to use, as slices; together they are ``n_columns`` of ``n_features``
    panel_rows : rows a panel
    dtype : the store's
    resident_bytes : device memory for panels that stay between reads; fewer stay when the device grants less
    """

    def __init__(
        self,
        streams: DeviceStreams,
        *,
        rows: tuple[int, int],
        columns: tuple[slice, ...],
        n_features: int,
        panel_rows: int,
        dtype: torch.dtype,
        resident_bytes: int = 0,
    ) -> None:
        self._streams = streams
        self._first, self._last = rows
        self._columns = columns
        self._width = sum(part.stop - part.start for part in columns)
        self._whole = len(columns) == 1 and self._width == n_features
        self.panel_rows, self._dtype = panel_rows, dtype
        try:
            self._ring = self._allocate_ring()
            self._resident = self._allocate_resident(resident_bytes)
        except torch.OutOfMemoryError:  # the first read raises it
            self._ring, self._resident = [], None
        self._filled = 0  # panels that lie in ``_resident``
        # Units whose copies may be under way; another library may reuse one on the device once no reference is held.
        self._behind = deque[tuple[Event, Tensor]]()
        self.copied_bytes = 0

    @property
    def resident_rows(self) -> int:
        """Rows of the resident panels, filled or not."""
        panels = 0 if self._resident is None else len(self._resident) // self.panel_rows
        return min(panels * self.panel_rows, self._last - self._first)

    @property
    def resident_bytes(self) -> int:
        """Device memory of the resident panels."""
        return 0 if self._resident is None else self._resident.nbytes

    def read(
        self, source: Source, *, verify: bool, start: int | None = None, from_row: int | None = None
    ) -> Iterator[Panel]:
        """Yield every row once, in order, as panels.

        Parameters
        ----------
        source : where fetch units come from
        verify : whether it checks checksums
        start : go on at this row, where a panel begins
        from_row : the row from which the source fetches for it; a chunk may begin before a panel

        Raises
        ------
        torch.OutOfMemoryError : the device has no room for the ring
        """
        self._ring = self._ring or self._allocate_ring()
        if not (self._whole or source.on_device):
            self._allocate_staging()
        streams, ahead = self._streams, deque[_Arriving]()
        arriving = self._arriving(source, verify, start, from_row)
        try:
            while True:
                while len(ahead) <= LOOK_AHEAD and (coming := next(arriving, None)) is not None:
                    ahead.append(coming)
                if not ahead:
                    return
                coming = ahead.popleft()
                if coming.arrived is not None:
                    streams.wait_event(COMPUTE, coming.arrived)
                yield coming.panel
                if coming.buffer is not None:
                    coming.buffer.used = streams.record_event(COMPUTE)
        finally:
            # However the read ends: no copy is under way, and no buffer is filled before the kernels are done with it.
            arriving.close()
            streams.synchronize(streams.record_event(COPY))
            self._behind.clear()
            for buffer in self._ring:
                buffer.used = streams.record_event(COMPUTE)

    def rows(self, start: int, stop: int) -> Tensor | None:
        """Rows ``start`` to ``stop`` (global) on the host, between two reads; None unless all of them are resident."""
        if self._resident is None or stop > self._first + min(self._filled * self.panel_rows, self._last - self._first):
            return None
        found = self._streams.download(self._resident[start - self._first : stop - self._first])
        self._streams.synchronize(self._streams.record_event(COMPUTE))
        return found

    def _arriving(
        self, source: Source, verify: bool, start_row: int | None, from_row: int | None
    ) -> Generator[_Arriving, None, None]:
        """Yield the panels in order; the copies into each have been started."""
        number = 0 if start_row is None else (start_row - self._first) // self.panel_rows
        while number < self._filled:
            assert self._resident is not None
            yield _Arriving(self._panel(number, self._place(number)), None, None)
            number += 1
        first, filled = self._first + number * self.panel_rows, 0
        if first >= self._last:
            return
        begin = first if from_row is None or first != start_row else from_row
        target, buffer = self._open(number)
        for start, rows in source.fetch_units(verify=verify, from_row=begin):
            at = max(first - start, 0)
            while at < len(rows):
                take = min(self.panel_rows - filled, len(rows) - at)
                self._put(rows[at : at + take], target, buffer, filled)
                filled, at = filled + take, at + take
                if filled == self.panel_rows or start + at == self._last:
                    yield self._close(number, target, buffer, filled)
                    number, filled = number + 1, 0
                    if start + at < self._last:
                        target, buffer = self._open(number)
            # The unit is kept until its copies have left, then the source may fill its memory again.
            self._behind.append((self._streams.record_event(COPY), rows))
            if len(self._behind) > LAG:
                self._streams.synchronize(self._behind.popleft()[0])

    def _open(self, number: int) -> tuple[Tensor, _Buffer | None]:
        """Memory for panel ``number``: its place among the resident ones, or a free buffer of the ring."""
        if self._is_resident(number):
            buffer = self._ring[number % len(self._ring)] if self._ring[0].staging is not None else None
            target = self._place(number)
        else:
            buffer = self._ring[number % len(self._ring)]
            target = buffer.rows
            self._streams.wait_event(COPY, buffer.used)
        if buffer is not None and buffer.staging is not None:
            self._streams.synchronize(buffer.left)
        return target, buffer

    def _put(self, rows: Tensor, target: Tensor, buffer: _Buffer | None, filled: int) -> None:
        if buffer is not None and buffer.staging is not None:
            gather(rows, self._columns, buffer.staging[filled : filled + len(rows)])
        elif self._whole:
            self._streams.upload(target[filled : filled + len(rows)], rows)
        else:
            at = 0
            for part in self._columns:
                width = part.stop - part.start
                self._streams.upload(target[filled : filled + len(rows), at : at + width], rows[:, part])
                at += width

    def _close(self, number: int, target: Tensor, buffer: _Buffer | None, filled: int) -> _Arriving:
        if buffer is not None and buffer.staging is not None:
            self._streams.upload(target[:filled], buffer.staging[:filled])
            buffer.left = self._streams.record_event(COPY)
        if filled < self.panel_rows:
            self._streams.clear(target[filled:])
        self.copied_bytes += filled * self._width * self._dtype.itemsize
        resident = self._is_resident(number)
        if resident:
            self._filled = number + 1
        return _Arriving(self._panel(number, target), self._streams.record_event(COPY), None if resident else buffer)

    def _is_resident(self, number: int) -> bool:
        """Whether panel ``number`` is the next one to stay; behind a gap, where a read began later, none stays."""
        return self._resident is not None and number == self._filled and number < len(self._resident) // self.panel_rows

    def _panel(self, number: int, rows: Tensor) -> Panel:
        start = self._first + number * self.panel_rows
        return Panel(start, min(self.panel_rows, self._last - start), (rows,))

    def _place(self, number: int) -> Tensor:
        assert self._resident is not None
        return self._resident[number * self.panel_rows : (number + 1) * self.panel_rows]

    def _allocate_ring(self) -> list[_Buffer]:
        rows = [self._streams.empty((self.panel_rows, self._width), self._dtype) for _ in range(LOOK_AHEAD + 1)]
        # The device may have had other work in this memory before it was given to us.
        used, left = self._streams.record_event(COMPUTE), self._streams.record_event(COPY)
        return [_Buffer(buffer, None, used, left) for buffer in rows]

    def _allocate_staging(self) -> None:
        for buffer in self._ring:
            if buffer.staging is None:
                buffer.staging = self._streams.pinned_empty((self.panel_rows, self._width), self._dtype)

    def _allocate_resident(self, resident_bytes: int) -> Tensor | None:
        """Memory for the first panels: as many as fit into ``resident_bytes`` and are granted."""
        panel_bytes = self.panel_rows * self._width * self._dtype.itemsize
        panels = min(resident_bytes // panel_bytes, -(-(self._last - self._first) // self.panel_rows))
        while panels > 0:
            try:
                resident = self._streams.empty((panels * self.panel_rows, self._width), self._dtype)
            except torch.OutOfMemoryError:
                panels = panels * 3 // 4
                continue
            self._streams.wait_event(COPY, self._streams.record_event(COMPUTE))  # as for the ring
            return resident
        return None
