"""What is fetched at once: a chunk, or a part of a chunk where the chunk is large and lies uncompressed in a file."""

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


def can_share(store: Store) -> bool:
    """Whether several threads can fetch units: a checksum runs over its chunk in order, pipelines have own threads."""
    return store.plain_chunks() is not None and fetch_rows(store) == store.chunk_rows


def fetch_rows(store: Store) -> int:
    """Rows of ``store`` that are fetched at once."""
    chunk_bytes = store.chunk_rows * store.n_features * store.itemsize
    if store.plain_chunks() is None or chunk_bytes <= FETCH_BYTES:
        return store.chunk_rows
    least = -(-chunk_bytes // FETCH_BYTES)
    for parts in range(least, min(4 * least, store.chunk_rows) + 1):
        if store.chunk_rows % parts == 0:
            return store.chunk_rows // parts
    return store.chunk_rows  # few divisors: parts of a few rows each would cost more than a large buffer


class ChunkChecks:
    """The chunks of a store; where they are plain, the CRC-32C of the one that passes by in pieces, in row order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._plain = store.plain_chunks()
        self._row_bytes = store.n_features * store.itemsize
        self._stop, self._crc = -1, 0
        self._all_stored = False

    def stored(self) -> None:
        """Look up, once, whether all chunks are there.

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
        """Take rows ``start`` to ``stop``; where they end a chunk, hold its checksum against the stored one.

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
            rest = bytearray(n_bytes - done)
            read_exactly(path, offset + done, memoryview(rest))
            crc = crc32c.crc32c(rest, crc)
        if crc != expected:
            raise StoreError(
                f"{path}: rows {chunk * self._store.chunk_rows:,} to {stop - 1:,} fail their checksum; "
                "copy the store again, or ingest its source again"
            )


class RowCache:
    """Disjoint runs of rows, by their first one."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, Tensor]] = []

    def add(self, start: int, rows: Tensor) -> None:
        """Remember ``rows`` (n, n_features), of which ``start`` is the first one."""
        self._runs.append((start, rows))

    def sort(self) -> None:
        """To be called when all are there."""
        self._runs.sort(key=lambda run: run[0])

    def clear(self) -> None:
        """Let go of all."""
        self._runs.clear()

    def between(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) of what is held of rows ``start`` to ``stop``, in order."""
        for first, rows in self._runs:
            low, high = max(first, start), min(first + len(rows), stop)
            if low < high:
                yield low, rows[low - first : high - first]


SLOTS = 3  # one in use, one ready, one being filled
_Ready = tuple[int, Tensor | Future[Tensor], Tensor | None]  # first row, rows, the buffer to give back


class Reader:
    """Units of a contiguous part of a store.

    Parameters
    ----------
    store : what to read
    first_row, last_row : the part, last_row excluded
    cache_bytes : decoded units are kept up to this many bytes, the first ones from ``cached_from`` on first
    lag : units that stay valid behind the one yielded last; a buffer each
    beyond : further units that are mapped ahead, where a panel takes several
    workers : threads that fetch and check a plain chunk each at the same time; a buffer more for each after the first
    empty : allocates a buffer of a shape and dtype; page-locked where copies to a GPU run from it; None where plain
        files may be mapped instead
    """

    on_device = False  # units lie in host memory

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
        """``plain files`` or the name of the codec pipeline."""
        return "plain files" if self._plain is not None else f"zarr ({self._store.pipeline})"

    @cached_property
    def is_mapped(self) -> bool:
        """Whether units stay valid as long as someone holds them: mapped, so that no buffer is filled again."""
        return self._maps and self._plain is not None and can_map(self._plain.locate(self._first)[0])

    def fetch_units(self, *, verify: bool, from_row: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, rows) for each unit in order; rows is of shape (n, n_features) in the store's dtype.

        A yielded tensor is to be read only, and valid until ``lag + 1`` further ones were asked for. ``from_row``
        leaves out the units before it. A mapped unit comes in pieces where some of its rows are still in memory.

        Raises
        ------
        StoreError : a chunk is missing, too short or fails its checksum
        """
        self.checks.stored()
        self._known.sort()
        if not self._slots:
            shape = (self._fetch_rows, self._store.n_features)
            # Of mapped units a panel may hold one more, for which there is no buffer to wait. They fill no buffer: what
            # they wait for is only that not too many are mapped.
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
                    # Where units last, panels keep what they are given.
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
                del item, rows  # whoever takes the unit is to hold it alone
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
        """Copy rows start to stop into ``out`` of shape (stop - start, n_features), outside the order of units.

        Of plain files several threads may do so at once.

        Plain rows are remembered as long as the next read lasts, which takes them from ``out`` instead of the store.
        """
        self.checks.stored()
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
        """Take over rows that nobody needs any more: unmapping them costs time, and the kernel's lock on the memory of
        the process, for which the caller would wait while units are mapped.
        """
        if self.is_mapped:
            self._released.put(pieces)

    def _release(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._released.get_nowait()

    def view_rows(self, segments: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        """The rows of some (start, stop) segments in pieces where they lie, to be read only; for a ``lasting`` reader.

        The next read takes them from there instead of the store, as it does with :meth:`rows`.
        """
        self.checks.stored()
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
        """Whether a unit is in the cache or will be."""
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
        # What stays is not page-locked: it may be most of the memory.
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
        """Rows from the store, but for those that are still in memory."""
        at = start
        for first, rows in self._known.between(start, stop):
            self._fetch_plain(at, first, target[at - start : first - start])
            at = first + len(rows)
            target[first - start : at - start].copy_(rows)
        self._fetch_plain(at, stop, target[at - start :])

    def _mapped(self, unit: int) -> list[tuple[int, Tensor]] | None:
        """A unit where it lies, but for the rows that are still in memory; None where it has to be copied."""
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
