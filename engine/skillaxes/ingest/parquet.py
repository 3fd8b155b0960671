"""``.parquet``: list columns as matrices, batch by batch, and the column of trace ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.errors import SourceError
from skillaxes.ingest.matrix import Matrix

_BATCHES_PER_BLOCK = 4  # arrow holds each number several times while it decodes
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from error


def _batches(path: Path, column: str, rows: int) -> Iterator[Any]:
    """The batches of a column, at most ``rows`` at a time."""
    import pyarrow as pa

    with _open(path) as table:
        try:
            for batch in table.iter_batches(batch_size=rows, columns=[column], use_threads=False):
                yield batch.column(0)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise SourceError(f"{path} is damaged: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class ColumnMatrix:
    """A list column, one list a row."""

    path: Path
    column: str
    shape: tuple[int, ...]
    dtype: str
    bounded: bool = True

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        first = 0
        for batch in _batches(self.path, self.column, max(1, rows // _BATCHES_PER_BLOCK)):
            yield self._dense(batch, first)
            first += len(batch)

    def _dense(self, batch: Any, first: int) -> np.ndarray:
        import pyarrow.types as kinds

        if batch.null_count:
            missing = int(np.flatnonzero(batch.is_null().to_numpy(zero_copy_only=False))[0])
            raise SourceError(
                f"{self.path}, {self.column}, has nothing in row {first + missing}; needed: numbers in every row"
            )
        columns = self.shape[1]
        if not kinds.is_fixed_size_list(batch.type):
            lengths = batch.value_lengths().to_numpy(zero_copy_only=False)
            ragged = np.flatnonzero(lengths != columns)
            if ragged.size:
                row = int(ragged[0])
                raise SourceError(
                    f"{self.path}, {self.column}, has {int(lengths[row])} numbers in row {first + row} "
                    f"and {columns} in row 0; needed: as many in every row"
                )
        values = batch.flatten()
        if values.null_count:
            missing = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // columns
            raise SourceError(
                f"{self.path}, {self.column}, lacks a number in row {first + missing}; needed: all of them"
            )
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(batch), columns)


def read_parquet(path: Path) -> dict[str, Matrix]:
    """The list columns of a table by name."""
    import pyarrow.types as kinds

    arrays: dict[str, Matrix] = {}
    with _open(path) as table:
        n_rows = table.metadata.num_rows
        for entry in table.schema_arrow:
            if kinds.is_list(entry.type) or kinds.is_large_list(entry.type) or kinds.is_fixed_size_list(entry.type):
                code = str(entry.type.value_type)
                width = entry.type.list_size if kinds.is_fixed_size_list(entry.type) else -1
                arrays[entry.name] = ColumnMatrix(path, entry.name, (n_rows, width), _FLOATS.get(code, code))
    return {name: _measured(matrix) for name, matrix in arrays.items()}  # type: ignore[arg-type]


def _measured(matrix: ColumnMatrix) -> ColumnMatrix:
    """The matrix with the width of its first row, unless the lists have a fixed size."""
    if matrix.shape[1] >= 0 or not matrix.shape[0]:
        return matrix
    width = len(next(_batches(matrix.path, matrix.column, 1))[0].as_py() or ())
    return ColumnMatrix(matrix.path, matrix.column, (matrix.shape[0], width), matrix.dtype)


def _id_column(path: Path, named: str | None) -> str | None:
    import pyarrow.types as kinds

    with _open(path) as table:
        schema = table.schema_arrow
    if named is not None:
        if named not in schema.names:
            raise SourceError(f"{path} has no column {named!r}; it has {', '.join(schema.names)}")
        return named
    for name in ("trace_id", "id"):
        if name in schema.names:
            kind = schema.field(name).type
            if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_integer(kind):
                return name
    return None


def read_ids(path: Path, named: str | None) -> list[str | None] | None:
    """The trace ids of a table as texts: the column that is named, else ``trace_id`` or ``id``; None without one.

    Raises
    ------
    SourceError : no such column, or a damaged table
    """
    column = _id_column(path, named)
    if column is None:
        return None
    ids: list[str | None] = []
    for batch in _batches(path, column, 65_536):
        ids.extend(None if value is None else str(value) for value in batch.to_pylist())
    return ids
