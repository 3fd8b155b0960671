"""Rows from disk into reusable buffers, one unit after another, read ahead by a thread.

A unit is what is fetched at once: a chunk, or a part of a chunk where the chunk is large and lies uncompressed
in a local file. Two roads lead to the same bytes: plain ``preadv`` into our buffer where the store's layout allows
it, and zarr's codec pipeline otherwise. Checksums are paid in the first read only; the pipeline checks every time.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from skillaxes.errors import StoreError
from skillaxes.stream.plain_files import as_numpy, read_exactly, will_need

if TYPE_CHECKING:
    from skillaxes.store import Store

TORCH_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
UNIT_BYTES = 32 << 20  # a plain chunk above it is fetched in parts
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
    workers : threads that fetch and check a plain chunk each at the same time; a buffer more for each after the first
    empty : allocates a buffer of a shape and dtype; page-locked where copies to a GPU run from it
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
        workers: int = 1,
        empty: Callable[[tuple[int, int], torch.dtype], Tensor] = lambda shape, dtype: torch.empty(shape, dtype=dtype),
    ) -> None:
        self._store = store
        self._first, self._last = first_row, last_row
        self._plain = store.plain_chunks()
        self._row_bytes = store.n_features * store.itemsize
        self._unit_rows = unit_rows(store)
        self.lag = lag
        self.cached_from = first_row
        self._empty = empty
        self._unit_bytes = self._unit_rows * self._row_bytes
        self._cached_units = cache_bytes // self._unit_bytes
        self._workers = workers if can_share(store) and not self._cached_units else 1
        self._lock = threading.Lock()
        self._cache: dict[int, Tensor] = {}
        self._slots: list[Tensor] = []
        self._crc: tuple[int, int] = (-1, 0)
        self._known: list[tuple[int, int, Tensor]] = []
        self.bytes_read = 0
        self.rows_read_twice = 0
        self._missing_checked = False

    @property
    def road(self) -> str:
        """``plain files`` or the name of the codec pipeline."""
        return "plain files" if self._plain is not None else f"zarr ({self._store.pipeline})"

    def units(self, *, verify: bool, from_row: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, rows) for each unit in order; rows is of shape (n, n_features) in the store's dtype.

        A yielded tensor is valid until ``lag + 1`` further ones were asked for. ``from_row`` leaves out the units
        before it.

        Raises
        ------
        StoreError : a chunk is missing, too short or fails its checksum
        """
        self.check_stored()
        if not self._slots:
            shape = (self._unit_rows, self._store.n_features)
            n_slots = SLOTS + self.lag + self._workers - 1
            self._slots = [self._empty(shape, TORCH_DTYPES[self._store.dtype]) for _ in range(n_slots)]
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
                    work = (unit, slot, verify)
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
                yield start, rows if isinstance(rows, Tensor) else rows.result()
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

    def rows(self, start: int, stop: int, out: Tensor) -> None:
        """Copy rows start to stop into ``out`` of shape (stop - start, n_features), outside the order of units.

        Plain rows are remembered as long as the next read lasts, which takes them from ``out`` instead of the store.
        """
        self.check_stored()
        at = start
        while at < stop:
            unit = at // self._unit_rows
            end = min(stop, self._start(unit) + self._unit_length(unit))
            target = out[at - start : end - start]
            if self._keeps(unit):
                kept = self._unit(unit, None, verify=False)
                target.copy_(kept[at - self._start(unit) : end - self._start(unit)])
            elif self._plain is not None:
                self._fetch_plain(at, end, target)
                self._known.append((at, end, target))
            else:
                self._fetch_zarr(at, end, target)
                self.rows_read_twice += end - at
            at = end
        self._known.sort(key=lambda known: known[0])

    def _indices(self, from_row: int | None) -> range:
        first = self._first if from_row is None else from_row
        return range(first // self._unit_rows, -(-self._last // self._unit_rows))

    def _keeps(self, unit: int) -> bool:
        """Whether a unit is in the cache or will be."""
        room = len(self._cache) < self._cached_units and unit >= self.cached_from // self._unit_rows
        return room or unit in self._cache

    def _start(self, unit: int) -> int:
        return max(unit * self._unit_rows, self._first)

    def _unit_length(self, unit: int) -> int:
        return min((unit + 1) * self._unit_rows, self._last) - self._start(unit)

    def _unit(self, unit: int, slot: Tensor | None, verify: bool) -> Tensor:
        start, length = self._start(unit), self._unit_length(unit)
        if unit in self._cache:
            if verify and self._plain is not None:
                self._verify(start, start + length, self._cache[unit])
            return self._cache[unit]
        shape, dtype = (length, self._store.n_features), TORCH_DTYPES[self._store.dtype]
        # What stays is not page-locked: it may be most of the memory.
        target = torch.empty(shape, dtype=dtype) if slot is None else slot[:length]
        if self._plain is None:
            self._fetch_zarr(start, start + length, target)
        else:
            self._prefetch(start + length)
            self._fetch_unknown(start, start + length, target)
            if verify:
                self._verify(start, start + length, target)
        if slot is None:
            self._cache[unit] = target
        return target

    def check_stored(self) -> None:
        """Refuse a store with missing chunks; looked up once."""
        if self._missing_checked:
            return
        missing = self._store.missing_chunks()
        if missing:
            first = missing[0] * self._store.chunk_rows
            raise StoreError(
                f"{self._store.path}: {len(missing)} of {self._store.n_chunks} chunks are not stored, the first one at "
                f"row {first:,}; they would read as zeros. Copy the store again, or ingest its source again"
            )
        self._missing_checked = True

    def _fetch_zarr(self, start: int, stop: int, target: Tensor) -> None:
        self._store.read_rows(start, stop, out=as_numpy(target))
        self.bytes_read += (stop - start) * self._row_bytes

    def _fetch_unknown(self, start: int, stop: int, target: Tensor) -> None:
        """Rows from the store, but for those that are still in memory."""
        at = start
        for known, end, rows in self._known:
            first, last = max(known, at), min(end, stop)
            if first >= last:
                continue
            self._fetch_plain(at, first, target[at - start : first - start])
            target[first - start : last - start].copy_(rows[first - known : last - known])
            at = last
        self._fetch_plain(at, stop, target[at - start :])

    def _fetch_plain(self, start: int, stop: int, target: Tensor) -> None:
        at = start
        buffer = as_numpy(target).reshape(-1).view(np.uint8).data
        while at < stop:
            chunk, within = divmod(at, self._store.chunk_rows)
            end = min(stop, (chunk + 1) * self._store.chunk_rows)
            path, offset, *_ = self._plain.locate(chunk)  # type: ignore[union-attr]
            view = buffer[(at - start) * self._row_bytes : (end - start) * self._row_bytes]
            read_exactly(path, offset + within * self._row_bytes, view)
            with self._lock:
                self.bytes_read += len(view)
            at = end

    def _verify(self, start: int, stop: int, target: Tensor) -> None:
        """Carry the checksum of a chunk over its units; compare where the chunk ends."""
        import google_crc32c

        chunk, within = divmod(start, self._store.chunk_rows)
        path, offset, n_bytes, expected = self._plain.locate(chunk)  # type: ignore[union-attr]
        if expected is None or (within and self._crc[0] != start):
            return  # nothing to compare with, or the part of the chunk before belongs to another process
        crc = google_crc32c.extend(self._crc[1] if within else 0, as_numpy(target).view(np.uint8).reshape(-1))
        self._crc = (stop, crc)
        if stop < min((chunk + 1) * self._store.chunk_rows, self._store.n_rows):
            return
        done = (stop - chunk * self._store.chunk_rows) * self._row_bytes
        if done < n_bytes:  # the last chunk is stored whole, filled up behind the last row
            rest = bytearray(n_bytes - done)
            read_exactly(path, offset + done, memoryview(rest))
            crc = google_crc32c.extend(crc, bytes(rest))
        if crc != expected:
            raise StoreError(
                f"{path}: rows {chunk * self._store.chunk_rows:,} to {stop - 1:,} fail their checksum; "
                "copy the store again, or ingest its source again"
            )

    def _prefetch(self, row: int) -> None:
        """Ask the kernel to fetch the next unit while this one is copied."""
        if row >= self._last:
            return
        chunk, within = divmod(row, self._store.chunk_rows)
        path, offset, *_ = self._plain.locate(chunk)  # type: ignore[union-attr]
        will_need(path, offset + within * self._row_bytes, self._unit_bytes)


def can_share(store: Store) -> bool:
    """Whether several threads can fetch units: a checksum runs over its chunk in order, pipelines have own threads."""
    return store.plain_chunks() is not None and unit_rows(store) == store.chunk_rows


def unit_rows(store: Store) -> int:
    """Rows of ``store`` that are fetched at once."""
    chunk_bytes = store.chunk_rows * store.n_features * store.itemsize
    if store.plain_chunks() is None or chunk_bytes <= UNIT_BYTES:
        return store.chunk_rows
    least = -(-chunk_bytes // UNIT_BYTES)
    for parts in range(least, min(4 * least, store.chunk_rows) + 1):
        if store.chunk_rows % parts == 0:
            return store.chunk_rows // parts
    return store.chunk_rows  # few divisors: parts of a few rows each would cost more than a large buffer
