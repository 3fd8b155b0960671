"""Writing the rows of a store: ``append`` and ``close``, of a whole one or of a part."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from skillaxes.errors import StoreError
from skillaxes.store.attributes import StoreAttributes
from skillaxes.store.dtypes import convert, holder, overflowing_rows
from skillaxes.store.files import ChunkFiles
from skillaxes.store.layout import CHUNKS_AT_LEAST, SMALLEST_CHUNK, Layout, choose_layout
from skillaxes.store.parts import finish_part, write_metadata
from skillaxes.store.rows import name_rows, rows_as_array


class StoreWriter:
    """Appends rows to a store or to a part of one. Use as a context manager: an error inside discards what it wrote.

    Until every row is written and the writer is closed, the store says that it is unfinished and ``open_store``
    refuses it.
    """

    def __init__(
        self,
        path: Path,
        *,
        row_shape: tuple[int, ...],
        dtype: str,
        attributes: StoreAttributes,
        n_rows: int | None,
        part: range | None,
        chunk_rows: int | None,
        shard_size: int | None,
        layout: Layout | None = None,
    ) -> None:
        self.path = path
        self.dtype = dtype
        self.row_shape = row_shape
        self.n_rows = n_rows
        self._attributes = attributes
        self._part = part  # None: this writer writes the whole store
        self._chunk_rows = chunk_rows
        self._shard_size = shard_size
        self._start = part.start if part is not None else 0
        self._written = 0  # rows appended by this writer
        self._held: list[np.ndarray] = []  # rows that wait for a full chunk, or for the layout
        self._held_rows = 0
        self._ids: list[str | None] = []
        self._files: ChunkFiles | None = None
        self._layout: Layout | None = None
        self._closed = False
        if layout is not None:
            self._use(layout)
        elif n_rows is not None:
            self._use(self._choose(n_rows))
            self._write_metadata(complete=False)
        else:
            self._write_metadata(complete=False)

    @property
    def chunk_rows(self) -> int | None:
        """Rows of a chunk; None as long as too few rows are there to tell."""
        return None if self._layout is None else self._layout.chunk_rows

    @property
    def file_rows(self) -> int | None:
        """Rows of a file (a chunk, or a shard): parts of several writers begin at multiples of it."""
        return None if self._layout is None else self._layout.file_rows

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.row_shape, dtype=np.int64)) * holder(self.dtype).itemsize

    def _choose(self, n_rows: int) -> Layout:
        return choose_layout(n_rows, self._row_bytes, chunk_rows=self._chunk_rows, shard_size=self._shard_size)

    def _use(self, layout: Layout) -> None:
        self._layout = layout
        self._files = ChunkFiles(self.path, layout, len(self.row_shape))

    def _write_metadata(self, *, complete: bool, ids: Sequence[str | None] | None = None) -> None:
        layout = self._layout or Layout(1, None)
        n_rows = self.n_rows if self.n_rows is not None else self._written
        write_metadata(
            self.path, (n_rows, *self.row_shape), self.dtype, layout, self._attributes, complete=complete, ids=ids
        )

    def append(self, rows: Any, ids: Sequence[str | None] | None = None) -> None:
        """Append rows.

        Parameters
        ----------
        rows : array or tensor of shape (n, n_features), or (n, layers, hidden); converted to the store's dtype
        ids : the trace ids of those rows; for all rows of the store or for none

        Raises
        ------
        StoreError : another width, another kind of numbers, values too large for the dtype, more rows than declared
        """
        self.append_values(*rows_as_array(rows), ids)

    def append_values(self, values: np.ndarray, dtype: str, ids: Sequence[str | None] | None = None) -> None:
        """:meth:`append` for an array in the holder of ``dtype``: bfloat16 as its bits in uint16."""
        if self._closed:
            raise StoreError(f"{self.path} is closed; make another writer with create_store or open_writer")
        n_features = int(np.prod(self.row_shape, dtype=np.int64))
        if values.ndim not in (2, 3) or values[:1].size != min(len(values), 1) * n_features:
            raise StoreError(f"rows of shape {values.shape} were appended; needed: (n, {n_features}), as the store has")
        if values.ndim == 3 and len(self.row_shape) == 2 and values.shape[1:] != self.row_shape:
            raise StoreError(f"rows of shape {values.shape} were appended; needed: (n, *{self.row_shape})")
        values = values.reshape(len(values), n_features)
        limit = self.n_rows if self._part is None else len(self._part)
        if limit is not None and self._written + len(values) > limit:
            total = self._written + len(values)
            raise StoreError(f"{total} rows were appended to {self.path}; it was declared with {limit}")
        self._take_ids(ids, len(values))
        converted = convert(values, dtype, self.dtype)
        lost = overflowing_rows(values, dtype, converted, self.dtype)
        if lost.size:
            raise StoreError(
                f"{name_rows(lost + self._start + self._written)} hold values too large for {self.dtype}; "
                f"needed: a store of dtype {'bfloat16 or float32' if self.dtype == 'float16' else 'float64'}"
            )
        self._written += len(values)
        self._held.append(np.ascontiguousarray(converted, dtype=holder(self.dtype).newbyteorder("<")))
        self._held_rows += len(values)
        if self._layout is None and self._held_rows * self._row_bytes >= CHUNKS_AT_LEAST * SMALLEST_CHUNK:
            self._use(self._choose(self._held_rows))
        if self._layout is not None and self._held_rows >= self._layout.chunk_rows:
            self._flush(self._layout.chunk_rows, last=False)
        else:
            self._held[-1] = self._held[-1].copy()  # the caller may fill its buffer again

    def _take_ids(self, ids: Sequence[str | None] | None, n_rows: int) -> None:
        had_ids = bool(self._ids) or self._written == 0
        if ids is None:
            if self._ids:
                raise StoreError(f"rows without ids follow rows with ids in {self.path}; give ids for all or none")
            return
        if len(ids) != n_rows:
            raise StoreError(f"{len(ids)} ids were given for {n_rows} rows; needed: one a row")
        if not had_ids:
            raise StoreError(f"rows with ids follow rows without in {self.path}; give ids for all or none")
        self._ids.extend(None if name is None else str(name) for name in ids)

    def _flush(self, chunk_rows: int, *, last: bool) -> None:
        """Write the chunks that are full; with ``last`` the ragged one too, filled up with zeros."""
        assert self._files is not None
        rows = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
        first = (self._start + self._written - self._held_rows) // chunk_rows
        full = len(rows) // chunk_rows
        for number in range(full):
            self._files.write(first + number, rows[number * chunk_rows : (number + 1) * chunk_rows])
        rest = rows[full * chunk_rows :]
        if last and len(rest):
            filled = np.zeros((chunk_rows, rows.shape[1]), dtype=rows.dtype)
            filled[: len(rest)] = rest
            self._files.write(first + full, filled)
            rest = rest[:0]
        self._held = [rest.copy()] if len(rest) else []  # a copy, so that the chunk it was cut from can go
        self._held_rows = len(rest)

    def close(self) -> None:
        """Write what is held and finish the store; of several writers the last one finishes it.

        Raises
        ------
        StoreError : nothing or too little was appended
        """
        if self._closed:
            return
        expected = self.n_rows if self._part is None else len(self._part)
        if self._written == 0 or (expected is not None and self._written < expected):
            self._closed = True
            self._drop_file()
            raise StoreError(
                f"{self.path} got {self._written} rows of {'at least 1' if expected is None else expected}; "
                f"it stays unfinished: append every row before close()"
            )
        if self._layout is None:
            self._use(self._choose(self._written))
        assert self._layout is not None and self._files is not None
        if self._held:
            self._flush(self._layout.chunk_rows, last=True)
        self._files.close()
        self._closed = True
        if self._part is None:
            self.n_rows = self._written
            self._write_metadata(complete=True, ids=self._ids or None)
        else:
            finish_part(self.path, self._part, self._ids or None)

    def _drop_file(self) -> None:
        if self._files is not None:
            self._files.discard()

    def discard(self) -> None:
        """Give up: a whole store is removed, of a part only the file under way."""
        self._closed = True
        self._held = []
        self._drop_file()
        if self._part is None:
            shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.discard()
        else:
            self.close()
