"""Making a store: ``create_store`` for one writer, ``open_writer`` for several on disjoint parts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skillaxes.errors import StoreError, UsageError
from skillaxes.store.attributes import StoreAttributes, fit, parse
from skillaxes.store.dtypes import DTYPES, holder
from skillaxes.store.layout import choose_layout
from skillaxes.store.parts import read_unfinished
from skillaxes.store.writing import StoreWriter


def _clear(path: Path, *, overwrite: bool) -> None:
    """Make room for a store: nothing but a store is ever removed."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise StoreError(f"{path} exists already; give another path, or overwrite it (--overwrite, overwrite=True)")
    if not path.is_dir() or not ((path / "zarr.json").exists() or (path / ".zarray").exists()):
        raise StoreError(f"{path} is not a zarr array, so it is not overwritten; give another path")
    shutil.rmtree(path)


def _row_shape(n_features: int | None, attributes: StoreAttributes, *, layered: bool) -> tuple[int, ...]:
    ids, hidden = attributes.layer_ids, attributes.hidden
    if n_features is None:
        if ids is None or hidden is None:
            raise UsageError("create_store needs the width of a row: give n_features, or layer_ids and hidden")
        n_features = len(ids) * hidden
    if n_features < 1:
        raise UsageError(f"n_features is {n_features}; needed: at least 1")
    if not layered:
        return (n_features,)
    hidden = hidden or (n_features // len(ids) if ids else None)
    if hidden is None or n_features % hidden:
        raise UsageError(f"layered=True needs a hidden size that divides the {n_features} columns; give hidden")
    return (n_features // hidden, hidden)


def create_store(
    path: Path | str,
    *,
    dtype: str,
    n_rows: int | None = None,
    n_features: int | None = None,
    layered: bool = False,
    layer_ids: Sequence[int] | None = None,
    hidden: int | None = None,
    model: str | None = None,
    revision: str | None = None,
    hook: str | None = None,
    pooling: str | None = None,
    token_range: str | Sequence[int | None] | None = None,
    chunk_rows: int | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
) -> StoreWriter:
    """A new store (zarr v3, full-width uncompressed chunks with crc32c), to be filled by :meth:`StoreWriter.append`.

    Parameters
    ----------
    path : folder of the store
    dtype : ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``
    n_rows : rows that will come, if known; several writers (:func:`open_writer`) need it
    n_features : columns of a row; follows from ``layer_ids`` and ``hidden`` where both are given
    layered : keep rows as (layers, hidden) instead of (n_features,)
    layer_ids, hidden, model, revision, hook, pooling, token_range : see :class:`StoreAttributes`
    chunk_rows, shard_size : rows of a chunk, bytes of a shard (0: none); by rule when None
    overwrite : replace a store that is there

    Raises
    ------
    StoreError : the path is taken, or the attributes do not fit the width
    UsageError : an unknown dtype, or sizes that cannot be
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}; needed: one of {', '.join(DTYPES)}")
    if n_rows is not None and n_rows < 1:
        raise UsageError(f"n_rows is {n_rows}; needed: at least 1, or nothing when it is not known")
    given = {
        "layer_ids": None if layer_ids is None else list(layer_ids),
        "hidden": hidden,
        "model": model,
        "revision": revision,
        "hook": hook,
        "pooling": pooling,
        "token_range": token_range,
    }
    attributes = parse(given)
    row_shape = _row_shape(n_features, attributes, layered=layered)
    attributes = fit(attributes, row_shape)
    place = Path(path)
    if n_rows is not None:
        # Sizes are checked before anything of an old store goes.
        row_bytes = int(np.prod(row_shape)) * holder(dtype).itemsize
        choose_layout(n_rows, row_bytes, chunk_rows=chunk_rows, shard_size=shard_size)
    _clear(place, overwrite=overwrite)
    return StoreWriter(
        place,
        row_shape=row_shape,
        dtype=dtype,
        attributes=attributes,
        n_rows=n_rows,
        part=None,
        chunk_rows=chunk_rows,
        shard_size=shard_size,
    )


def open_writer(path: Path | str, start: int, stop: int) -> StoreWriter:
    """A writer of rows ``start`` to ``stop`` (excluded) of a store that :func:`create_store` made with ``n_rows``.

    Writers of disjoint parts may run at once, in several processes or on several hosts; the one that closes last
    finishes the store. Parts begin at multiples of ``StoreWriter.file_rows`` and end at one or at the last row. A part
    that failed is simply written again.

    Raises
    ------
    StoreError : no unfinished store there
    UsageError : a part that does not begin or end at a file
    """
    unfinished = read_unfinished(Path(path))
    n_rows, file_rows = unfinished.shape[0], unfinished.layout.file_rows
    if not 0 <= start < stop <= n_rows or start % file_rows or (stop % file_rows and stop != n_rows):
        raise UsageError(
            f"part {start} to {stop} of {n_rows} rows; needed: multiples of {file_rows} (the rows of a file), "
            f"or the last row as the end"
        )
    return StoreWriter(
        Path(path),
        row_shape=unfinished.shape[1:],
        dtype=unfinished.dtype,
        attributes=unfinished.attributes,
        n_rows=n_rows,
        part=range(start, stop),
        chunk_rows=None,
        shard_size=None,
        layout=unfinished.layout,
    )
