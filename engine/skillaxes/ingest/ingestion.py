"""From a file to a store: rows copied block by block, then read back and compared."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.errors import SourceError, StoreError, UsageError
from skillaxes.ingest.readers import Source, open_source
from skillaxes.ingest.trace_ids import load_ids
from skillaxes.progress import SILENT, Progress
from skillaxes.store import StoreWriter, crc32c, create_store, open_store
from skillaxes.store.attributes import fit, parse
from skillaxes.store.dtypes import DTYPES, bad_rows, convert, holder, overflowing_rows
from skillaxes.store.writer import name_rows

_BLOCK_BYTES = 16 << 20  # large enough to be fast, small enough for several at once
_BAD_ROWS_KEPT = 1_000
_OVERHEAD = 1.01  # files and checksums beside the values


@dataclass(frozen=True)
class IngestSummary:
    """A finished ingest.

    source, key : the file, and the name of the matrix in it (``""``: the file is the matrix)
    source_dtype : of the numbers in the file
    store, shape, dtype, chunk_rows, n_chunks, shard_rows, nbytes : of the new store
    bounded : whether the file could be read in bounded memory
    bad_rows, first_bad_rows : how many rows hold NaN or infinity, and the first of them
    has_trace_ids : whether rows have ids
    seconds : of the whole, verification included
    """

    source: str
    key: str
    source_dtype: str
    store: str
    shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    n_chunks: int
    shard_rows: int | None
    nbytes: int
    bounded: bool
    bad_rows: int
    first_bad_rows: tuple[int, ...]
    has_trace_ids: bool
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Copied:
    """Rows and checksum of every copied block, for the verification; the first bad rows and their number."""

    blocks: list[tuple[int, int]]
    bad: list[int]
    n_bad: int


def ingest(
    source: Path | str,
    store: Path | str,
    *,
    key: str | None = None,
    dtype: str | None = None,
    layer_ids: Sequence[int] | None = None,
    hidden: int | None = None,
    model: str | None = None,
    revision: str | None = None,
    hook: str | None = None,
    pooling: str | None = None,
    token_range: str | Sequence[int | None] | None = None,
    trace_ids: Sequence[str | None] | Path | str | None = None,
    id_field: str | None = None,
    chunk_rows: int | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> IngestSummary:
    """Turn a file into a store, then read the store back and compare it with the rows of the file.

    Nothing of a pickle is run (:mod:`skillaxes.ingest.pickles`). The store appears under its name only when it is
    complete and verified; on any error nothing is left. A source of shape (rows, layers, hidden) becomes a store of
    that shape.

    Parameters
    ----------
    source : a file of one of the formats of :data:`skillaxes.ingest.readers.READERS`
    store : folder of the new store
    key : which array of the file, where it holds several; the list column of a table
    dtype : of the store; that of the file when None
    layer_ids, hidden, model, revision, hook, pooling, token_range : see :class:`skillaxes.store.StoreAttributes`
    trace_ids : one id a row, or a file of them (:func:`skillaxes.ingest.trace_ids.load_ids`); from a table's column
        ``trace_id`` or ``id`` when None
    id_field : the field or column that holds the ids
    chunk_rows, shard_size : see :func:`skillaxes.store.create_store`
    overwrite : replace an existing store once the new one is verified
    progress : receives the stages ``ingest`` and ``verify``

    Raises
    ------
    SourceError : a file that cannot be taken, values too large for ``dtype``, too few ids, no room on the disk
    StoreError : the store exists already, attributes that do not fit, a store that reads back differently
    UsageError : an unknown dtype, a size that cannot be
    """
    began = time.perf_counter()
    target = Path(store)
    _check_target(target, overwrite=overwrite)
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}; needed: one of {', '.join(DTYPES)}")
    found = open_source(source, key)
    shape = found.matrix.shape
    given = parse(
        {
            "layer_ids": None if layer_ids is None else list(layer_ids),
            "hidden": hidden,
            "model": model,
            "revision": revision,
            "hook": hook,
            "pooling": pooling,
            "token_range": token_range,
        }
    )
    attributes = fit(given, shape[1:])
    ids = _ids_of(found, trace_ids, id_field)
    if ids is not None and len(ids) != shape[0]:
        raise SourceError(f"there are {len(ids)} trace ids for the {shape[0]} rows of {source}; needed: one a row")
    store_dtype = dtype or found.matrix.dtype
    temporary = target.with_name(f"{target.name}.ingest")
    _check_room(temporary, math.prod(shape) * holder(store_dtype).itemsize)
    with _removed_on_error(temporary):
        writer = create_store(
            temporary,
            dtype=store_dtype,
            n_rows=shape[0],
            n_features=math.prod(shape[1:]),
            layered=len(shape) == 3,
            **vars(attributes),
            chunk_rows=chunk_rows,
            shard_size=shard_size,
            overwrite=True,
        )
        with writer:
            copied = _copy(found, writer, store_dtype, ids, progress)
        summary = _verify(found, temporary, target, copied, began, progress)
        _put_in_place(temporary, target)
    return summary


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise StoreError(f"{target} exists already; give another path, or overwrite it (--overwrite, overwrite=True)")
    if not (target / "zarr.json").exists() and not (target / ".zarray").exists():
        raise StoreError(f"{target} is not a zarr array, so it is not overwritten; give another path")


def _check_room(temporary: Path, nbytes: int) -> None:
    folder = next((parent for parent in temporary.absolute().parents if parent.exists()), None)
    if folder is None:
        return
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file, so no store can be made in it; give another path")
    free = shutil.disk_usage(folder).free
    if nbytes * _OVERHEAD > free:
        raise SourceError(f"the store needs {nbytes / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; make room")


def _ids_of(
    source: Source, given: Sequence[str | None] | Path | str | None, field: str | None
) -> list[str | None] | None:
    if given is not None:
        return load_ids(given, field)
    if source.reader.trace_ids is not None:
        return source.reader.read_trace_ids(source.path, field)
    if field is not None:
        raise UsageError(f"id field {field!r} was given without a file of trace ids; give one, or leave it out")
    return None


@contextmanager
def _removed_on_error(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _copy(source: Source, writer: StoreWriter, dtype: str, ids: list[str | None] | None, progress: Progress) -> _Copied:
    """Copy the rows of the source to the store."""
    matrix = source.matrix
    row_bytes = math.prod(matrix.shape[1:]) * holder(matrix.dtype).itemsize
    chunk_rows = writer.chunk_rows or 1
    rows = max(1, _BLOCK_BYTES // (row_bytes * chunk_rows)) * chunk_rows
    copied = _Copied([], [], 0)
    done = 0
    with progress.stage("ingest", matrix.shape[0], unit_bytes=row_bytes) as stage:
        for block in matrix.blocks(rows):
            values = convert(block, matrix.dtype, dtype)
            overflowing = overflowing_rows(block, matrix.dtype, values, dtype)
            if overflowing.size:
                wider = "bfloat16 or float32" if dtype == "float16" else "float64"
                raise SourceError(
                    f"{source.path}: {name_rows(overflowing + done)} hold values too large for {dtype}; "
                    f"ingest as {wider}"
                )
            bad = bad_rows(values, dtype)
            copied.n_bad += bad.size
            copied.bad.extend((bad[: _BAD_ROWS_KEPT - len(copied.bad)] + done).tolist())
            copied.blocks.append((len(values), crc32c(np.ascontiguousarray(values))))
            writer.append_values(values, dtype, None if ids is None else ids[done : done + len(values)])
            done += len(values)
            stage.advance(len(values))
    return copied


def _verify(
    source: Source, temporary: Path, target: Path, copied: _Copied, began: float, progress: Progress
) -> IngestSummary:
    """Read the new store through zarr and compare its checksums block by block."""
    store = open_store(temporary)
    if store.missing_chunks():
        raise StoreError(f"{target} lacks chunks that were just written; check the disk and ingest again")
    start = 0
    with progress.stage("verify", store.n_rows, unit_bytes=store.n_features * store.itemsize) as stage:
        for rows, checksum in copied.blocks:
            if crc32c(store.read_rows(start, start + rows)) != checksum:
                raise StoreError(
                    f"rows {start} to {start + rows - 1} of {target} read back differently than they were written; "
                    f"check the disk and ingest again"
                )
            start += rows
            stage.advance(rows)
    if copied.n_bad:
        progress.note(f"{name_rows(copied.bad)} hold NaN or infinity ({copied.n_bad} in all)")
    return IngestSummary(
        source=str(source.path),
        key=source.name,
        source_dtype=source.matrix.dtype,
        store=str(target),
        shape=store.shape,
        dtype=store.dtype,
        chunk_rows=store.chunk_rows,
        n_chunks=store.n_chunks,
        shard_rows=store.shard_shape[0] if store.shard_shape else None,
        nbytes=store.nbytes,
        bounded=source.matrix.bounded,
        bad_rows=copied.n_bad,
        first_bad_rows=tuple(copied.bad),
        has_trace_ids=store.trace_ids([0])[0] is not None,
        seconds=time.perf_counter() - began,
    )


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename the new store to its name; an old store is removed only now."""
    if not target.exists():
        temporary.rename(target)
        return
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)
