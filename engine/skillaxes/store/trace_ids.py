"""Trace ids of rows: a JSON list in the attributes, or a parquet file beside the chunks when there are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from skillaxes.errors import StoreError
from skillaxes.files import atomic_write
from skillaxes.store.attributes import TRACE_IDS
from skillaxes.store.chunks import ChunkMap

FILE = "trace_ids.parquet"
COLUMN = "trace_id"
IN_ATTRIBUTES = 10_000  # more ids than this would make zarr.json slow to open
_ROWS_A_GROUP = 65_536


def look_up(attrs: Mapping[str, Any], path: Path | str, chunks: ChunkMap, rows: Sequence[int]) -> list[str | None]:
    """The ids of ``rows``; None for all where the store has none.

    Raises
    ------
    StoreError : the ids are damaged, lie outside the store, or are not as many as its rows
    """
    n_rows = chunks.shape[0]
    outside = [row for row in rows if not 0 <= row < n_rows]
    if outside:
        raise IndexError(f"row {outside[0]} of {n_rows}")
    kept = attrs.get(TRACE_IDS)
    if kept is None:
        return [None] * len(rows)
    if isinstance(kept, Sequence) and not isinstance(kept, str):
        if len(kept) != n_rows:
            raise StoreError(f"{path} has {len(kept)} trace_ids for {n_rows} rows; needed: one a row")
        return [None if kept[row] is None else str(kept[row]) for row in rows]
    name = kept.get("parquet") if isinstance(kept, Mapping) else None
    if not isinstance(name, str):
        raise StoreError(f"trace_ids of {path} is {str(kept)[:80]!r}; needed: a list, or {{'parquet': {FILE!r}}}")
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        raise StoreError(f"trace_ids of {path} lie in {name!r}; needed: a file inside the store")
    if chunks.root is None:
        return [None] * len(rows)
    return _from_parquet(chunks.root / chunks.key_prefix / name, n_rows, rows)


def _from_parquet(file: Path, n_rows: int, rows: Sequence[int]) -> list[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            if table.metadata.num_rows != n_rows:
                raise StoreError(f"{file} has {table.metadata.num_rows} ids for {n_rows} rows; needed: one a row")
            sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            wanted = np.asarray(rows, dtype=np.int64)
            groups = np.searchsorted(starts, wanted, side="right") - 1
            found: list[str | None] = [None] * len(rows)
            for group in np.unique(groups):
                column = table.read_row_group(int(group), columns=[COLUMN]).column(0)
                places = np.flatnonzero(groups == group)
                for place, value in zip(places, column.take(pa.array(wanted[places] - starts[group])), strict=True):
                    found[place] = None if value.as_py() is None else str(value.as_py())
            return found
    except (OSError, pa.ArrowException, KeyError) as error:
        cause = " ".join(str(error).split())
        raise StoreError(f"the trace ids of the store, {file}, cannot be read: {cause}") from error


def write_parquet(file: Path, ids: Sequence[str | None]) -> None:
    """Write all ids, in row order, to a file that :func:`look_up` reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_write(file, shared=True) as temp:
        pq.write_table(pa.table({COLUMN: pa.array(ids, pa.string())}), temp, row_group_size=_ROWS_A_GROUP)
