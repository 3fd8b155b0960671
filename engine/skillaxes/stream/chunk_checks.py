"""Whether chunks are all there, and the checksums of those that pass by in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from skillaxes.errors import StoreError
from skillaxes.stream.plain_files import as_numpy, read_exactly

if TYPE_CHECKING:
    from skillaxes.store import Store


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
