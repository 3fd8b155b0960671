"""Parquet tables of a run folder, and arrow columns straight from memory.

``pa.array`` imports pandas to find out whether it was given something of pandas: 0.3 seconds of a job that takes three.
The columns here are built from their buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from skillaxes.errors import RunFolderError
from skillaxes.run_folder.schema import Column

_RENAMED = {"settled": "certified"}  # columns of format version 1


def read_table(run_dir: Path, name: str) -> pa.Table:
    """One of the parquet files of a run folder.

    Raises
    ------
    RunFolderError : the file is not there or not whole
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(run_dir / name)
        return table.rename_columns([_RENAMED.get(column, column) for column in table.column_names])
    except FileNotFoundError:
        raise RunFolderError(f"{run_dir} holds no {name}: run the job again with --overwrite") from None
    except (pa.ArrowException, OSError) as error:
        cause = " ".join(str(error).split())
        raise RunFolderError(f"{run_dir / name} cannot be read ({cause}): run the job again with --overwrite") from None


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The schema of a table with these columns."""
    return pa.schema([pa.field(one.name, pa.type_for_alias(one.type), nullable=one.nullable) for one in columns])


def numbers(values: np.ndarray, kind: pa.DataType, missing: np.ndarray | None = None) -> pa.Array:
    """A column of fixed-width numbers; ``missing`` (n,), bool, marks nulls."""
    values = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(values), [_validity(missing), pa.py_buffer(values)])


def booleans(values: np.ndarray) -> pa.Array:
    """A column of truth values."""
    bits = np.packbits(np.asarray(values, bool), bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def texts(values: Sequence[str | None], places: np.ndarray | None = None) -> pa.Array:
    """A column of strings, None for null: ``values``, or ``values[place]`` for each of ``places`` (n,), int64."""
    if places is None:
        places = np.arange(len(values))
    encoded = [b"" if value is None else value.encode() for value in values]
    lengths = np.array([len(value) for value in encoded], np.int64)
    offsets = np.zeros(len(places) + 1, np.int64)
    np.cumsum(lengths[places], out=offsets[1:])
    if offsets[-1] >= 1 << 31:
        raise ValueError(f"{offsets[-1]:,} bytes of text do not fit one column")
    missing = np.array([value is None for value in values], bool)[places]
    data = b"".join([encoded[place] for place in places.tolist()]) if offsets[-1] else b""
    buffers = [_validity(missing), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(places), buffers)


def repeated_texts(values: Sequence[str | None], counts: Sequence[int]) -> pa.Array:
    """A column of strings, None for null: each of ``values`` as often as its one of ``counts`` says."""
    encoded = [b"" if value is None else value.encode() for value in values]
    offsets = np.zeros(sum(counts) + 1, np.int32)
    np.cumsum(np.repeat([len(value) for value in encoded], counts), out=offsets[1:])
    missing = np.repeat([value is None for value in values], counts)
    data = b"".join([value * count for value, count in zip(encoded, counts, strict=True)])
    buffers = [_validity(missing), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)


def _validity(missing: np.ndarray | None) -> pa.Buffer | None:
    if missing is None or not missing.any():
        return None
    return pa.py_buffer(np.packbits(~missing, bitorder="little"))
