"""Parquet tables of a run folder, and arrow columns from numpy arrays and strings.

``pa.array`` imports pandas to test the type of its argument, which takes 0.3 of the 3 seconds of a small job. The
columns here are built from buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from skillaxes.errors import RunFolderError
from skillaxes.run_folder.schema import RENAMED, Column


def read_table(run_dir: Path, name: str) -> pa.Table:
    """The parquet file ``name`` of a run folder, with the column names of the current format.

    Raises
    ------
    RunFolderError : the file is missing or damaged
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(run_dir / name)
        return table.rename_columns([RENAMED.get(column, column) for column in table.column_names])
    except FileNotFoundError:
        raise RunFolderError(f"{run_dir} holds no {name}: run the job again with --overwrite") from None
    except (pa.ArrowException, OSError) as error:
        cause = " ".join(str(error).split())
        raise RunFolderError(f"{run_dir / name} cannot be read ({cause}): run the job again with --overwrite") from None


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The arrow schema of a table with these columns."""
    return pa.schema([pa.field(one.name, pa.type_for_alias(one.type), nullable=one.nullable) for one in columns])


def numbers(values: np.ndarray, kind: pa.DataType, missing: np.ndarray | None = None) -> pa.Array:
    """A column of numbers (n,) of type ``kind``; ``missing`` (n,), bool, marks nulls."""
    values = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(values), [_validity(missing), pa.py_buffer(values)])


def booleans(values: np.ndarray) -> pa.Array:
    """A column of booleans (n,)."""
    bits = np.packbits(np.asarray(values, bool), bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def texts(values: Sequence[str | None], places: np.ndarray | None = None) -> pa.Array:
    """A column of strings, null for None: ``values``, or ``values[place]`` for each of ``places`` (n,), int64.

    Raises
    ------
    ValueError : 2 GiB of text or more
    """
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
    """A column of strings, null for None: ``values[i]`` repeated ``counts[i]`` times."""
    encoded = [b"" if value is None else value.encode() for value in values]
    offsets = np.zeros(sum(counts) + 1, np.int32)
    np.cumsum(np.repeat([len(value) for value in encoded], counts), out=offsets[1:])
    missing = np.repeat([value is None for value in values], counts)
    data = b"".join([value * count for value, count in zip(encoded, counts, strict=True)])
    buffers = [_validity(missing), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)


def _validity(missing: np.ndarray | None) -> pa.Buffer | None:
    """Arrow's validity bitmap; None where nothing is missing."""
    if missing is None or not missing.any():
        return None
    return pa.py_buffer(np.packbits(~missing, bitorder="little"))
