"""Rows of plain chunks: copied into a buffer, or mapped where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from skillaxes.stream.plain_files import TORCH_DTYPES, as_numpy, mapped, read_exactly, will_need

if TYPE_CHECKING:
    from skillaxes.store import Store
    from skillaxes.store.plain import PlainChunks


class PlainRows:
    """The rows of ``store``, whose chunks lie as ``layout`` says."""

    def __init__(self, store: Store, layout: PlainChunks) -> None:
        self._store, self._layout = store, layout
        self._row_bytes = store.n_features * store.itemsize

    def locate(self, row: int) -> tuple[Path, int]:
        """The file that holds a row, and the row's first byte there."""
        chunk, within = divmod(row, self._store.chunk_rows)
        path, offset, *_ = self._layout.locate(chunk)
        return path, offset + within * self._row_bytes

    def fetch(self, start: int, stop: int, target: Tensor) -> None:
        """Copy rows ``start`` to ``stop`` into ``target`` (stop - start, n_features).

        Raises
        ------
        StoreError : a chunk is missing or too short
        """
        buffer = as_numpy(target).reshape(-1).view(np.uint8).data
        at = start
        while at < stop:
            end = min(stop, (at // self._store.chunk_rows + 1) * self._store.chunk_rows)
            view = buffer[(at - start) * self._row_bytes : (end - start) * self._row_bytes]
            read_exactly(*self.locate(at), view)
            at = end

    def mapped(self, start: int, stop: int) -> Tensor | None:
        """Rows of one chunk, (stop - start, n_features), to be read only; None where they are not aligned for that."""
        path, offset = self.locate(start)
        if offset % self._store.itemsize:
            return None
        rows = mapped(path, offset, (stop - start) * self._row_bytes)
        return rows.view(TORCH_DTYPES[self._store.dtype]).view(stop - start, self._store.n_features)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) of each chunk's part of rows ``start`` to ``stop``, mapped if possible, else copied."""
        while start < stop:
            end = min(stop, (start // self._store.chunk_rows + 1) * self._store.chunk_rows)
            rows = self.mapped(start, end)
            if rows is None:
                rows = torch.empty((end - start, self._store.n_features), dtype=TORCH_DTYPES[self._store.dtype])
                self.fetch(start, end, rows)
            yield start, rows
            start = end

    def prefetch(self, row: int, n_bytes: int) -> None:
        """Ask the kernel for what comes next while something else is worked on."""
        will_need(*self.locate(row), n_bytes)
