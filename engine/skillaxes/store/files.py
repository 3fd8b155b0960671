"""The files of a store under way: one per chunk or per shard, written aside and renamed, so that none is half there.

The bytes are what zarr would write (``tests/store/test_writing.py`` compares them), but a shard is written chunk by
chunk instead of being held in memory.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from skillaxes.store.chunks import ABSENT, crc32c, pack_index
from skillaxes.store.layout import Layout


class ChunkFiles:
    """Writes full-size chunks, in order, as files or into shards.

    Parameters
    ----------
    folder : of the zarr array
    layout : rows of chunks and shards
    row_ndim : dimensions of a row, 1 or 2
    """

    def __init__(self, folder: Path, layout: Layout, row_ndim: int) -> None:
        self._folder = folder
        self._layout = layout
        self._tail = "/0" * row_ndim
        self._per_file = layout.file_rows // layout.chunk_rows
        self._open: BinaryIO | None = None
        self._file = -1
        self._index = np.empty((0, 2), dtype=np.uint64)

    def _path(self, file: int) -> Path:
        return self._folder / f"c/{file}{self._tail}"

    def write(self, chunk: int, values: np.ndarray) -> None:
        """Store chunk ``chunk``: little-endian values of its full shape, and their crc32c behind them."""
        file, place = divmod(chunk, self._per_file)
        if file != self._file:
            self._finish()
            path = self._path(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open = open(path.with_name(path.name + ".partial"), "wb", buffering=0)  # noqa: SIM115 - spans calls
            self._file = file
            self._index = np.full((self._per_file, 2), ABSENT)
        assert self._open is not None
        start = self._open.tell()
        flat = values.reshape(-1).view(np.uint8).data
        written = 0
        while written < len(flat):  # an unbuffered write may take part of it
            written += self._open.write(flat[written:])
        self._open.write(crc32c(values).to_bytes(4, "little"))
        self._index[place] = (start, self._open.tell() - start)

    def _finish(self) -> None:
        if self._open is None:
            return
        if self._layout.shard_rows is not None:
            self._open.write(pack_index(self._index))
        self._open.close()
        path = self._path(self._file)
        path.with_name(path.name + ".partial").replace(path)
        self._open = None
        self._file = -1

    def close(self) -> None:
        """Finish the file under way."""
        self._finish()

    def discard(self) -> None:
        """Drop the file under way."""
        if self._open is not None:
            self._open.close()
            with contextlib.suppress(FileNotFoundError):
                Path(self._open.name).unlink()
            self._open = None
