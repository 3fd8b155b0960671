"""PanelStream: reads of a store in panels of a fixed number of rows, on a CPU or a GPU, and samples of its rows."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skillaxes.devices import torch_dtype
from skillaxes.stream import device as devices
from skillaxes.stream import gds
from skillaxes.stream.panel import Panel, gather
from skillaxes.stream.prefetch import LAG, DevicePrefetcher
from skillaxes.stream.reader import Reader, fetch_rows

if TYPE_CHECKING:
    from skillaxes.store import Store

SEGMENT = 32  # rows of a sample read side by side: one seek each
_SAMPLERS = 4  # threads that fetch the sample of plain files: a slow disk answers several at once


def sample_segments(n_rows: int, n_sample: int, seed: int) -> list[tuple[int, int]]:
    """(start, stop) of disjoint segments with about ``n_sample`` rows in all, spread over a store.

    One segment lies at a random place of each equal stretch. The segments depend on the number of rows and the seed
    alone, so that another chunking of the same rows gives the same sample.
    """
    if n_sample >= n_rows:
        return [(0, n_rows)]
    count = max(1, n_sample // SEGMENT)
    length = min(SEGMENT, n_sample)
    rng = np.random.default_rng([seed, n_rows])
    edges = np.linspace(0, n_rows, count + 1).astype(np.int64)
    starts = [int(rng.integers(low, max(low, high - length) + 1)) for low, high in itertools.pairwise(edges)]
    return [(start, min(start + length, n_rows)) for start in starts]


class PanelStream:
    """Reads of a part of a store, in panels.

    Parameters
    ----------
    store : the store to read
    columns : the columns to use, as slices; None for all
    panel_rows : rows a panel
    device : where the panels lie
    cache_bytes : memory for decoded units that later reads take from there
    rows : (first, last) of the part, last excluded; None for the whole store
    resident_bytes : GPU memory for panels that stay there between reads
    workers : threads that fetch chunks for a GPU
    direct : fetch chunks straight into a GPU's memory (see :mod:`skillaxes.stream.gds`)
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
        resident_bytes: int = 0,
        workers: int = 1,
        direct: bool = False,
    ) -> None:
        self.store = store
        self.device = device
        self.panel_rows = panel_rows
        self.first_row, self.last_row = rows if rows is not None else (0, store.n_rows)
        self.columns = tuple(columns) if columns is not None else (slice(0, store.n_features),)
        self.n_columns = sum(part.stop - part.start for part in self.columns)
        self.dtype = torch_dtype(store.dtype)
        self.reads = 0.0
        self._bytes_before, self._twice, self._verified = 0, 0, False
        self._buffer: Tensor | None = None
        self._streams = devices.device_streams(device)
        self._prefetcher: DevicePrefetcher | None = None
        self._direct: gds.DirectReader | None = None
        if self._streams is None:
            beyond = -(-panel_rows // fetch_rows(store)) - 1 if self._whole else 0
            self.reader = Reader(store, self.first_row, self.last_row, cache_bytes=cache_bytes, beyond=beyond)
            return
        self.reader = Reader(
            store,
            self.first_row,
            self.last_row,
            cache_bytes=cache_bytes,
            lag=LAG,
            workers=workers,
            empty=self._streams.pinned_empty,
        )
        if direct:
            self._direct = gds.DirectReader(store, self.first_row, self.last_row, self._streams.from_dlpack, device)
        self._copied_before, self._position = 0, 0
        self._prefetcher = self._make_prefetcher(resident_bytes)

    @property
    def n_rows(self) -> int:
        return self.last_row - self.first_row

    @property
    def _whole(self) -> bool:
        """Whether all columns are used."""
        return self.n_columns == self.store.n_features

    @property
    def bytes_read(self) -> int:
        """Bytes fetched from the store so far."""
        direct = self._direct.bytes_read if self._direct is not None else 0
        return self._bytes_before + self.reader.bytes_read + direct

    @property
    def rows_read_twice(self) -> int:
        """Rows that were fetched twice for one read: sampled ones, and those before the row that a read resumed at."""
        return self._twice + self.reader.rows_read_twice

    def counters(self) -> dict[str, Any]:
        """Counts of what was read so far, for :meth:`resume`."""
        return {"reads": self.reads, "bytes_read": self.bytes_read, "rows_read_twice": self.rows_read_twice}

    def resume(self, reads: float, bytes_read: int, rows_read_twice: int) -> None:
        """Continue the counts of an earlier attempt; bytes that this one has fetched so far are added."""
        self.reads = reads
        self._bytes_before, self._twice = bytes_read, rows_read_twice

    def read(self, from_row: int | None = None) -> Generator[Panel, None, None]:
        """One read: yield every row once, in order.

        Parameters
        ----------
        from_row : resume at this row, where a panel begins
        """
        start = self.first_row if from_row is None else from_row
        assert (start - self.first_row) % self.panel_rows == 0 or start == self.last_row
        if start < self.last_row:
            if self._prefetcher is None:
                yield from self._read_on_host(start)
            else:
                yield from self._read_to_device(self._prefetcher, start)
        self._verified = self._verified or start == self.first_row
        self.reads += 1

    def _read_to_device(self, prefetcher: DevicePrefetcher, start: int) -> Iterator[Panel]:
        self.reader.checks.require_stored()
        source = self.reader if self._direct is None else self._direct
        begin = self._begin(start)
        for panel in prefetcher.read(source, verify=not self._verified, start=start, from_row=begin):
            self._position = panel.start + panel.count - self.first_row
            yield panel
        self._position = 0

    def _read_on_host(self, start: int) -> Iterator[Panel]:
        size, filled, pieces = self.panel_rows, 0, list[Tensor]()
        # Where only some columns are used, more is mapped than a panel holds: no more units than were planned for.
        in_place = self.reader.is_mapped and (self._whole or size <= fetch_rows(self.store))
        for first, block in self.reader.fetch_units(verify=not self._verified, from_row=self._begin(start)):
            at = max(start - first, 0)
            while at < len(block):
                take = min(size - filled, len(block) - at)
                pieces.append(self._piece(block[at : at + take], filled, in_place))
                filled, at = filled + take, at + take
                if filled == size:
                    yield Panel(first + at - size, size, tuple(pieces))
                    self.reader.release(pieces)
                    filled, pieces = 0, []
            del block
        if filled:
            empty = torch.zeros((size - filled, self.n_columns), dtype=self.dtype)
            yield Panel(self.last_row - filled, filled, (*pieces, empty))

    def _piece(self, rows: Tensor, at: int, in_place: bool) -> Tensor:
        """The used columns of some rows of a panel: a view where possible, else copied into a buffer."""
        whole_panel = at == 0 and len(rows) == self.panel_rows
        if len(self.columns) == 1 and (whole_panel or in_place):
            return rows[:, self.columns[0]]
        if self._buffer is None:
            self._buffer = torch.empty((self.panel_rows, self.n_columns), dtype=self.dtype)
        gather(rows, self.columns, piece := self._buffer[at : at + len(rows)])
        return piece

    def _begin(self, start: int) -> int:
        """The row to fetch from so that row ``start`` comes: chunks whose checksums are checked are fetched whole."""
        step = fetch_rows(self.store) if self._verified else self.store.chunk_rows
        begin = max(start // step * step, self.first_row)
        self._twice += start - begin
        return begin

    def sample(self, segments: Sequence[tuple[int, int]]) -> Tensor:
        """The rows of some (start, stop) segments, of shape (n, n_columns), on the host, in the store's dtype."""
        lengths = [stop - start for start, stop in segments]
        rows = torch.empty((sum(lengths), self.n_columns), dtype=self.dtype)
        targets = rows.split(lengths)
        if self._prefetcher is None and self.store.plain_chunks() is not None:
            with ThreadPoolExecutor(_SAMPLERS, "skillaxes-sample") as pool:
                list(pool.map(self._rows, segments, targets))
        else:
            for segment, target in zip(segments, targets, strict=True):
                self._rows(segment, target)
        return rows

    def sample_views(self, segments: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        """The rows of :meth:`sample` in read-only pieces: mapped where possible, else one copy."""
        if self._prefetcher is not None or not self._whole or not self.reader.is_mapped:
            return (self.sample(segments),)
        return self.reader.view_rows(segments)

    def _rows(self, segment: tuple[int, int], target: Tensor) -> None:
        start, stop = segment
        resident = None if self._prefetcher is None else self._prefetcher.rows(start, stop)
        if resident is not None:
            target.copy_(resident)
        elif self._whole:
            self.reader.rows(start, stop, target)
        else:
            full = torch.empty((stop - start, self.store.n_features), dtype=self.dtype)
            self.reader.rows(start, stop, full)
            gather(full, self.columns, target)

    def shrink(self, panel_rows: int, resident_bytes: int) -> None:
        """Start over with smaller panels on the device. Counts go on."""
        assert self._streams is not None and self._prefetcher is not None
        self.reads += self._position / self.n_rows
        self._copied_before, self._position = self._copied_before + self._prefetcher.copied_bytes, 0
        self._prefetcher = None  # drop it first: its memory is for the next one
        self._streams.empty_cache()
        self.panel_rows = panel_rows
        self._prefetcher = self._make_prefetcher(resident_bytes)

    def on_device(self) -> dict[str, Any] | None:
        """The manifest's entry about rows on a GPU; None on a CPU."""
        if self._streams is None or self._prefetcher is None:
            return None
        return {
            "name": self._streams.name,
            "panel_rows": self.panel_rows,
            "kept_rows": self._prefetcher.resident_rows,
            "kept_bytes": self._prefetcher.resident_bytes,
            "copied_bytes": self._copied_before + self._prefetcher.copied_bytes,
            "read_path": self.reader.read_path if self._direct is None else gds.READ_PATH,
        }

    def _make_prefetcher(self, resident_bytes: int) -> DevicePrefetcher:
        assert self._streams is not None
        prefetcher = DevicePrefetcher(
            self._streams,
            rows=(self.first_row, self.last_row),
            columns=self.columns,
            n_features=self.store.n_features,
            panel_rows=self.panel_rows,
            dtype=self.dtype,
            resident_bytes=resident_bytes,
        )
        self.reader.cached_from = self.first_row + prefetcher.resident_rows  # resident rows need no room in host memory
        return prefetcher
