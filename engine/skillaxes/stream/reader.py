"""Reader: the rows of a store in fetch units, read ahead by a thread, cached, and checked against their checksums.

A fetch unit is the run of rows that is read at once: a chunk, or a part of one where chunks are large and lie
uncompressed in files.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from skillaxes.devices import torch_dtype
from skillaxes.errors import StoreError
from skillaxes.stream.files import PlainRows, as_numpy, can_map, read_exactly

if TYPE_CHECKING:
    from skillaxes.store import Store


FETCH_BYTES = 32 << 20  # a plain chunk above it is fetched in parts
SLOTS = 3  # buffers: one in use, one ready, one being filled
_Ready = tuple[int, Tensor | Future[Tensor], Tensor | None]  # first row, rows, the buffer to give back


def can_share(store: Store) -> bool:
    """Whether several threads can fetch units.

    Not where a chunk is fetched in parts, since its checksum runs over them in order, nor where a codec pipeline has
    threads of its own.
    """
    return store.plain_chunks() is not None and fetch_rows(store) == store.chunk_rows


def fetch_rows(store: Store) -> int:
    """Rows of a fetch unit of ``store``."""
    chunk_bytes = store.chunk_rows * store.n_features * store.itemsize
    if store.plain_chunks() is None or chunk_bytes <= FETCH_BYTES:
        return store.chunk_rows
    least = -(-chunk_bytes // FETCH_BYTES)
    for parts in range(least, min(4 * least, store.chunk_rows) + 1):
        if store.chunk_rows % parts == 0:
            return store.chunk_rows // parts
    return store.chunk_rows  # few divisors: parts of a few rows each would cost more than a large buffer


class ChunkChecks:
    """Checks that chunks are stored, and the CRC-32C of plain chunks, whose rows are given in pieces, in row order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._plain = store.plain_chunks()
        self._row_bytes = store.n_features * store.itemsize
        self._stop, self._crc = -1, 0
        self._all_stored = False

    def require_stored(self) -> None:
        """Look up, once, whether all chunks are stored.

        Raises
        ------
        StoreError : some are missing, and would read as zeros
        """
        if self._all_stored:
            return
        missing = self._store.missing_chunks()
        if missing:
            first = missing[0] * self._store.chunk_rows
            raise StoreError(
                f"{self._store.path}: {len(missing)} of {self._store.n_chunks} chunks are not stored, the first one at "
                f"row {first:,}; they would read as zeros. Copy the store again, or ingest its source again"
            )
        self._all_stored = True

    def verify(self, start: int, stop: int, rows: Tensor) -> None:
        """Add rows ``start`` to ``stop`` to their chunk's checksum; where they end it, compare with the stored one.

        Raises
        ------
        StoreError : they differ
        """
        import crc32c

        assert self._plain is not None
        chunk, within = divmod(start, self._store.chunk_rows)
        path, offset, n_bytes, expected = self._plain.locate(chunk)
        if expected is None or (within and self._stop != start):
            return  # nothing to compare with, or the part of the chunk before belongs to another process
        crc = crc32c.crc32c(as_numpy(rows).view(np.uint8).reshape(-1).data, self._crc if within else 0)
        self._stop, self._crc = stop, crc
        if stop < min((chunk + 1) * self._store.chunk_rows, self._store.n_rows):
            return
        done = (stop - chunk * self._store.chunk_rows) * self._row_bytes
        if done < n_bytes:  # the last chunk is stored whole, filled up behind the last row
            rest = np.empty(n_bytes - done, np.uint8)
            read_exactly(path, offset + done, rest)
            crc = crc32c.crc32c(rest.data, crc)
        if crc != expected:
            raise StoreError(
                f"{path}: rows {chunk * self._store.chunk_rows:,} to {stop - 1:,} fail their checksum; "
                "copy the store again, or ingest its source again"
            )


class RowCache:
    """Disjoint runs of rows in memory, looked up by row number."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, Tensor]] = []

    def add(self, start: int, rows: Tensor) -> None:
        """Add ``rows`` (n, n_features), the first of which is row ``start``."""
        self._runs.append((start, rows))

    def sort(self) -> None:
        """Put the runs in row order; to be called between the last ``add`` and the first ``between``."""
        self._runs.sort(key=lambda run: run[0])

    def clear(self) -> None:
        """Drop all runs."""
        self._runs.clear()

    def between(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, rows) of the cached parts of rows ``start`` to ``stop``, in order."""
        for first, rows in self._runs:
            low, high = max(first, start), min(first + len(rows), stop)
            if low < high:
                yield low, rows[low - first : high - first]


class Reader:
    """Fetch units of a contiguous part of a store, in host memory.

    Parameters
    ----------
    store : the store to read
    first_row, last_row : the part, last_row excluded
    cache_bytes : memory for decoded units that later reads take from there; the first ones from ``cached_from`` on
    lag : units that stay valid behind the one yielded last; a buffer each
    beyond : further units that are mapped ahead, where a panel takes several
    workers : threads that fetch and check a plain chunk each at the same time; a buffer more for each after the first
    empty : allocates a buffer of a shape and dtype; pinned where copies to a GPU run from it; None where plain files
        may be mapped instead
    """

    on_device = False

    def __init__(
        self,
        store: Store,
        first_row: int,
        last_row: int,
        *,
        cache_bytes: int = 0,
        lag: int = 0,
        beyond: int = 0,
        workers: int = 1,
        empty: Callable[[tuple[int, int], torch.dtype], Tensor] | None = None,
    ) -> None:
        self._store = store
        self._first, self._last = first_row, last_row
        layout = store.plain_chunks()
        self._plain = None if layout is None else PlainRows(store, layout)
        self._row_bytes = store.n_features * store.itemsize
        self._fetch_rows = fetch_rows(store)
        self.lag = lag
        self._beyond = beyond
        self.cached_from = first_row
        self._empty = _pageable if empty is None else empty
        self._maps = empty is None and self._plain is not None
        self._fetch_bytes = self._fetch_rows * self._row_bytes
        self._cached_units = cache_bytes // self._fetch_bytes
        self._workers = workers if can_share(store) and not self._cached_units else 1
        self._lock = threading.Lock()
        self._cache: dict[int, Tensor] = {}
        self._slots: list[Tensor] = []
        self.checks = ChunkChecks(store)
        self._known = RowCache()
        self._released: queue.SimpleQueue[list[Tensor]] = queue.SimpleQueue()
        self.bytes_read = 0
        self.rows_read_twice = 0

    @property
    def read_path(self) -> str:
        """``"plain files"``, or the codec pipeline: ``"zarr (zarrs)"``, ``"zarr (zarr)"``."""
        return "plain files" if self._plain is not None else f"zarr ({self._store.pipeline})"

    @cached_property
    def is_mapped(self) -> bool:
        """Whether units are mapped files: valid as long as they are referenced, since no buffer is filled again."""
        return self._maps and self._plain is not None and can_map(self._plain.locate(self._first)[0])

    def fetch_units(self, *, verify: bool, from_row: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, rows) of each fetch unit in order; rows is of shape (n, n_features) in the store's dtype.

        A yielded tensor is read-only, and valid until ``lag + 1`` further ones were asked for. A mapped unit comes in
        pieces where some of its rows are in memory already.

        Parameters
        ----------
        verify : check the checksums of plain chunks
        from_row : leave out the units before this row

        Raises
        ------
        StoreError : a chunk is missing, too short or fails its checksum
        """
        self.checks.require_stored()
        self._known.sort()
        if not self._slots:
            shape = (self._fetch_rows, self._store.n_features)
            # Mapped units fill no buffer; they wait for one only so that not too many are mapped. A panel may hold one
            # of them more, which waits for none.
            n_slots = SLOTS + (self._beyond - 1 if self.is_mapped else 0) + self.lag + self._workers - 1
            self._slots = [self._empty(shape, torch_dtype(self._store.dtype)) for _ in range(n_slots)]
        free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        ready: queue.SimpleQueue[_Ready | BaseException | None] = queue.SimpleQueue()
        pool = ThreadPoolExecutor(self._workers, "skillaxes-fetch") if self._workers > 1 else None
        stop = threading.Event()
        for slot in self._slots:
            free.put(slot)

        def fill() -> None:
            try:
                for unit in self._indices(from_row):
                    slot = None if self._keeps(unit) else free.get()
                    if stop.is_set():
                        return
                    self._release()
                    if slot is not None and (pieces := self._mapped(unit)) is not None:
                        for start, piece in pieces:
                            if verify:
                                self.checks.verify(start, start + len(piece), piece)
                            ready.put((start, piece, slot if start == pieces[-1][0] else None))
                        continue
                    # Where units are mapped, panels hold the rows that they are given.
                    target = torch.empty_like(slot) if self.is_mapped and slot is not None else slot
                    work = (unit, target, verify)
                    rows = self._unit(*work) if pool is None else pool.submit(self._unit, *work)
                    ready.put((self._start(unit), rows, slot))
                ready.put(None)
            except BaseException as error:  # handed to the consumer, which raises it
                ready.put(error)

        thread = threading.Thread(target=fill, name="skillaxes-reader", daemon=True)
        thread.start()
        held: deque[Tensor | None] = deque()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                start, rows, used = item
                unit = [rows if isinstance(rows, Tensor) else rows.result()]
                del item, rows  # the consumer is to hold the only reference
                yield start, unit.pop()
                held.append(used)
                if len(held) > self.lag and (used := held.popleft()) is not None:
                    free.put(used)
            self._known.clear()
        finally:
            stop.set()
            free.put(self._slots[0])
            thread.join()
            if pool is not None:
                pool.shutdown(cancel_futures=True)
            self._release()

    def rows(self, start: int, stop: int, out: Tensor) -> None:
        """Copy rows ``start`` to ``stop`` into ``out`` of shape (stop - start, n_features), outside a read.

        Several threads may do so at once where files are plain. The next read takes plain rows from ``out`` instead of
        the store.
        """
        self.checks.require_stored()
        at = start
        while at < stop:
            unit = at // self._fetch_rows
            end = min(stop, self._start(unit) + self._unit_length(unit))
            target = out[at - start : end - start]
            if self._keeps(unit):
                kept = self._unit(unit, None, verify=False)
                target.copy_(kept[at - self._start(unit) : end - self._start(unit)])
            elif self._plain is not None:
                self._fetch_plain(at, end, target)
                self._known.add(at, target)
            else:
                self._fetch_zarr(at, end, target)
                self.rows_read_twice += end - at
            at = end

    def release(self, pieces: list[Tensor]) -> None:
        """Have the reader's thread drop mapped rows that are no longer needed.

        Unmapping takes time and the kernel's lock on the memory of the process, for which the caller would wait while
        units are mapped.
        """
        if self.is_mapped:
            self._released.put(pieces)

    def _release(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._released.get_nowait()

    def view_rows(self, segments: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        """The rows of some (start, stop) segments as mapped pieces, read-only; only where ``is_mapped``.

        The next read takes them from there instead of the store, as it does with :meth:`rows`.
        """
        self.checks.require_stored()
        assert self._plain is not None
        for start, stop in segments:  # a slow disk answers several at once
            self._plain.prefetch(start, (stop - start) * self._row_bytes)
        pieces = [piece for segment in segments for piece in self._plain.pieces(*segment)]
        for first, rows in pieces:
            self._known.add(first, rows)
            self.bytes_read += len(rows) * self._row_bytes
        return tuple(rows for _, rows in pieces)

    def _indices(self, from_row: int | None) -> range:
        first = self._first if from_row is None else from_row
        return range(first // self._fetch_rows, -(-self._last // self._fetch_rows))

    def _keeps(self, unit: int) -> bool:
        """Whether unit number ``unit`` is in the cache or will be."""
        room = len(self._cache) < self._cached_units and unit >= self.cached_from // self._fetch_rows
        return room or unit in self._cache

    def _start(self, unit: int) -> int:
        return max(unit * self._fetch_rows, self._first)

    def _unit_length(self, unit: int) -> int:
        return min((unit + 1) * self._fetch_rows, self._last) - self._start(unit)

    def _unit(self, unit: int, slot: Tensor | None, verify: bool) -> Tensor:
        start, length = self._start(unit), self._unit_length(unit)
        if unit in self._cache:
            if verify and self._plain is not None:
                self.checks.verify(start, start + length, self._cache[unit])
            return self._cache[unit]
        shape, dtype = (length, self._store.n_features), torch_dtype(self._store.dtype)
        # Cached units are not pinned: they may be most of the memory.
        target = torch.empty(shape, dtype=dtype) if slot is None else slot[:length]
        if self._plain is None:
            self._fetch_zarr(start, start + length, target)
        else:
            if start + length < self._last:
                self._plain.prefetch(start + length, self._fetch_bytes)
            self._fetch_unknown(start, start + length, target)
            if verify:
                self.checks.verify(start, start + length, target)
        if slot is None:
            self._cache[unit] = target
        return target

    def _fetch_zarr(self, start: int, stop: int, target: Tensor) -> None:
        self._store.read_rows(start, stop, out=as_numpy(target))
        self.bytes_read += (stop - start) * self._row_bytes

    def _fetch_unknown(self, start: int, stop: int, target: Tensor) -> None:
        """Fetch rows, from memory where they are known and from the store elsewhere."""
        at = start
        for first, rows in self._known.between(start, stop):
            self._fetch_plain(at, first, target[at - start : first - start])
            at = first + len(rows)
            target[first - start : at - start].copy_(rows)
        self._fetch_plain(at, stop, target[at - start :])

    def _mapped(self, unit: int) -> list[tuple[int, Tensor]] | None:
        """A unit as mapped pieces, between rows that are in memory already; None where it has to be copied."""
        if not self.is_mapped or self._plain is None:
            return None
        start = self._start(unit)
        stop = start + self._unit_length(unit)
        view = self._plain.mapped(start, stop)
        if view is None:
            return None
        if stop < self._last:
            self._plain.prefetch(stop, self._fetch_bytes)
        pieces, done = list[tuple[int, Tensor]](), start
        for first, rows in [*self._known.between(start, stop), (stop, view[:0])]:
            if first > done:
                pieces.append((done, view[done - start : first - start]))
                self.bytes_read += (first - done) * self._row_bytes
            if len(rows):
                pieces.append((first, rows))
            done = first + len(rows)
        return pieces

    def _fetch_plain(self, start: int, stop: int, target: Tensor) -> None:
        assert self._plain is not None
        self._plain.fetch(start, stop, target)
        with self._lock:
            self.bytes_read += (stop - start) * self._row_bytes


def _pageable(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)
