"""Writing a store: the size of its chunks, its files, its metadata, one writer or several.

The store is a zarr v3 array. Its chunk files are written here and not through zarr, so that writers in several
processes need no lock. ``zarr.json`` is written here too, since it is replaced in one step when chunks are there
already, and with another chunk shape where the number of rows was not known: ``create_array`` would remove the chunks.

Until every row is written, ``zarr.json`` says that the store is unfinished. Each of several writers leaves a record
``parts/<start>.json`` when its part is written; the writer that completes the records finishes the store.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from skillaxes.errors import StoreError, UsageError
from skillaxes.files import atomic_write, write_at
from skillaxes.store.attributes import COMPLETE, FORMAT_VERSION, OURS, TRACE_IDS, StoreAttributes, fit, parse
from skillaxes.store.chunks import ABSENT, CRC_BYTES, crc32c, pack_index
from skillaxes.store.dtypes import BFLOAT16, DTYPES, convert, holder, overflowing_rows
from skillaxes.store.trace_ids import FILE, IN_ATTRIBUTES, write_parquet

MIB = 2**20
SMALLEST_CHUNK = 8 * MIB
LARGEST_CHUNK = 32 * MIB
CHUNKS_AT_LEAST = 16  # in a store, where it has that many rows
_CHUNKS_WANTED = 64
_ROUND = 64  # chunks of at least that many rows have a power of two of them
_SHARD_ABOVE = 50 * 10**9  # bytes of a store
_SHARD = 1024 * MIB
_ROWS_NAMED = 10  # in a message
_METADATA = "zarr.json"
_PARTS = "parts"


@dataclass(frozen=True)
class Layout:
    """Rows of a chunk, and of a shard (None: every chunk is a file)."""

    chunk_rows: int
    shard_rows: int | None

    @property
    def file_rows(self) -> int:
        return self.shard_rows or self.chunk_rows


def chunk_rows_for(n_rows: int, row_bytes: int) -> int:
    """Rows of a chunk for a store of ``n_rows`` rows of ``row_bytes`` bytes: at least 1.

    Chunks have about 8 to 32 MiB by the size of the store, and never more than 1/16 of it, so that a small store still
    streams. Their rows are a power of two where there are 64 or more. So are those of a panel: whole panels in a chunk,
    or whole chunks in a panel, need no copy.
    """
    total = n_rows * row_bytes
    wanted = min(max(total // _CHUNKS_WANTED, SMALLEST_CHUNK), LARGEST_CHUNK)
    rows = max(1, min(wanted // row_bytes, n_rows // CHUNKS_AT_LEAST))
    if rows < _ROUND:
        return rows
    below = 1 << (rows.bit_length() - 1)
    above = 2 * below
    return above if above * row_bytes <= LARGEST_CHUNK and above <= n_rows // CHUNKS_AT_LEAST else below


def choose_layout(
    n_rows: int, row_bytes: int, *, chunk_rows: int | None = None, shard_size: int | None = None
) -> Layout:
    """The layout of a store to be written.

    Above 50 GB chunks go into shards of 1 GiB: 200 GB in 8 MiB chunks would be 24,000 files.

    Parameters
    ----------
    n_rows, row_bytes : rows of the store, or the least it can be where it is not known yet; bytes of a row
    chunk_rows : rows of a chunk; by rule when None
    shard_size : bytes of a shard, rounded down to whole chunks; 0 for none; by rule when None

    Raises
    ------
    UsageError : a size below 1, or a shard smaller than a chunk
    """
    if chunk_rows is None:
        chunk_rows = chunk_rows_for(n_rows, row_bytes)
    if chunk_rows < 1:
        raise UsageError(f"chunk_rows is {chunk_rows}; needed: at least 1")
    if shard_size is None:
        shard_size = _SHARD if n_rows * row_bytes > _SHARD_ABOVE else 0
    if shard_size < 0:
        raise UsageError(f"shard_size is {shard_size}; needed: bytes, e.g. {_SHARD}, or 0 for no shards")
    if shard_size == 0:
        return Layout(chunk_rows, None)
    chunk_bytes = chunk_rows * row_bytes
    per_shard = min(shard_size // chunk_bytes, math.ceil(n_rows / chunk_rows))
    if per_shard < 1:
        raise UsageError(
            f"shard_size {shard_size} is smaller than a chunk ({chunk_bytes} bytes); "
            f"needed: at least one chunk, or 0 for no shards"
        )
    return Layout(chunk_rows, per_shard * chunk_rows)


def rows_as_array(rows: Any) -> tuple[np.ndarray, str]:
    """(values, dtype) of an array or a tensor, on the host, in native byte order; bfloat16 as its bits in uint16.

    Raises
    ------
    StoreError : another dtype than a store has
    """
    name = str(rows.dtype).removeprefix("torch.") if hasattr(rows, "dtype") else ""
    if hasattr(rows, "detach") and name in DTYPES:
        tensor = rows.detach().cpu().contiguous()
        if name == BFLOAT16:
            import torch  # installed, since a tensor was given

            return tensor.view(torch.int16).numpy().view(np.uint16), BFLOAT16
        return tensor.numpy(), name
    if not hasattr(rows, "detach"):
        rows = np.asarray(rows)
        name = rows.dtype.name
    if name not in DTYPES:
        raise StoreError(f"rows are {name}; needed: {', '.join(DTYPES)}; convert them, e.g. rows.astype('float32')")
    if name == BFLOAT16:
        return rows.view(np.uint16), BFLOAT16
    return rows.astype(rows.dtype.newbyteorder("="), copy=False), name


def name_rows(rows: Sequence[int] | np.ndarray) -> str:
    """``"rows 3, 17 and 204"``, shortened."""
    shown = [str(int(row)) for row in rows[:_ROWS_NAMED]]
    if len(rows) > _ROWS_NAMED:
        return f"rows {', '.join(shown)} and {len(rows) - _ROWS_NAMED} more"
    return f"row {shown[0]}" if len(shown) == 1 else f"rows {', '.join(shown[:-1])} and {shown[-1]}"


class ChunkFiles:
    """Writes full-size chunks, in order, to files of their own or into shards.

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
        self._open: BinaryIO | None = None  # the file under way, which is renamed when it is whole
        self._size = 0  # bytes written to it
        self._file = -1  # its number
        self._index = np.empty((0, 2), dtype=np.uint64)

    def _path(self, file: int) -> Path:
        return self._folder / f"c/{file}{self._tail}"

    def write(self, chunk: int, values: np.ndarray) -> None:
        """Write chunk number ``chunk``: little-endian values of its full shape, and their crc32c behind them."""
        file, place = divmod(chunk, self._per_file)
        if file != self._file:
            self._finish()
            path = self._path(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open = open(path.with_name(path.name + ".partial"), "wb", buffering=0)  # noqa: SIM115 - spans calls
            self._size, self._file = 0, file
            self._index = np.full((self._per_file, 2), ABSENT)
        start = self._size
        self._write(values)
        self._write(crc32c(values).to_bytes(CRC_BYTES, "little"))
        self._index[place] = (start, self._size - start)

    def _write(self, values: np.ndarray | bytes) -> None:
        assert self._open is not None
        self._size = write_at(self._open.fileno(), values, self._size)

    def _finish(self) -> None:
        if self._open is None:
            return
        if self._layout.shard_rows is not None:
            self._write(pack_index(self._index))
        self._open.close()
        path = self._path(self._file)
        path.with_name(path.name + ".partial").replace(path)
        self._open = None
        self._file = -1

    def close(self) -> None:
        """Finish the file under way."""
        self._finish()

    def discard(self) -> None:
        """Remove the file under way."""
        if self._open is not None:
            self._open.close()
            with contextlib.suppress(FileNotFoundError):
                Path(self._open.name).unlink()
            self._open = None


@dataclass(frozen=True)
class UnfinishedStore:
    """Shape, dtype, layout and attributes of a store that another process created."""

    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    attributes: StoreAttributes


def _replace(file: Path, text: str) -> None:
    with atomic_write(file, shared=True) as temp:
        temp.write_text(text, encoding="utf-8")


def _codecs(layout: Layout, row_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    plain: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    if layout.shard_rows is None:
        return plain
    configuration = {
        "chunk_shape": [layout.chunk_rows, *row_shape],
        "codecs": plain,
        "index_codecs": plain,
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": configuration}]


def write_metadata(
    path: Path,
    shape: tuple[int, ...],
    dtype: str,
    layout: Layout,
    attributes: StoreAttributes,
    *,
    complete: bool,
    ids: Sequence[str | None] | None = None,
) -> None:
    """Write ``zarr.json``, in one step, and the ids into its attributes or, if there are many, into a file."""
    path.mkdir(parents=True, exist_ok=True)
    known = attributes.known()
    if ids is not None:
        if len(ids) > IN_ATTRIBUTES:
            write_parquet(path / FILE, ids)
            known[TRACE_IDS] = {"parquet": FILE}
        else:
            known[TRACE_IDS] = list(ids)
    known[OURS] = {"format_version": FORMAT_VERSION, COMPLETE: complete}
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [layout.file_rows, *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": _codecs(layout, shape[1:]),
        "attributes": known,
        "storage_transformers": [],
    }
    _replace(path / _METADATA, json.dumps(metadata, indent=2) + "\n")


def _metadata(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((path / _METADATA).read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        raise StoreError(f"there is no store at {path}; make it first: create_store(PATH, n_rows=...)") from None
    except ValueError as error:
        raise StoreError(f"{path / _METADATA} is damaged ({error}); create the store again") from error


def _complete(metadata: dict[str, Any]) -> bool:
    return bool(metadata.get("attributes", {}).get(OURS, {}).get(COMPLETE, True))


def _described(metadata: dict[str, Any]) -> UnfinishedStore:
    file_rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    first = metadata["codecs"][0]
    sharded = first["name"] == "sharding_indexed"
    layout = Layout(first["configuration"]["chunk_shape"][0], file_rows) if sharded else Layout(file_rows, None)
    return UnfinishedStore(tuple(metadata["shape"]), metadata["data_type"], layout, parse(metadata["attributes"]))


def read_unfinished(path: Path) -> UnfinishedStore:
    """The description of an unfinished store whose number of rows was declared.

    Raises
    ------
    StoreError : no store, a finished one, or one whose number of rows was not declared
    """
    metadata = _metadata(path)
    if _complete(metadata):
        raise StoreError(f"{path} is finished; write to a new store: create_store(PATH, n_rows=...)")
    if not metadata["shape"][0]:
        raise StoreError(f"{path} was created without n_rows, so parts have no place; create_store(PATH, n_rows=...)")
    return _described(metadata)


def finish_part(path: Path, part: range, ids: Sequence[str | None] | None) -> None:
    """Record that a part is written. If every row is written, finish the store.

    Raises
    ------
    StoreError : some parts came with ids and others without
    """
    folder = path / _PARTS
    folder.mkdir(exist_ok=True)
    record = {"start": part.start, "stop": part.stop, "ids": None if ids is None else list(ids)}
    _replace(folder / f"{part.start}.json", json.dumps(record))
    try:
        records = sorted((json.loads(file.read_text()) for file in folder.glob("*.json")), key=lambda r: r["start"])
        metadata = _metadata(path)
        unfinished = _described(metadata)
        reached = 0
        for entry in records:
            if entry["start"] > reached:
                return
            reached = max(reached, entry["stop"])
        if reached < unfinished.shape[0] or _complete(metadata):
            return
        merged = _merge_ids(path, records)
    except FileNotFoundError:
        return  # another writer finished the store meanwhile
    write_metadata(
        path,
        unfinished.shape,
        unfinished.dtype,
        unfinished.layout,
        unfinished.attributes,
        complete=True,
        ids=merged,
    )
    shutil.rmtree(folder, ignore_errors=True)


def _merge_ids(path: Path, records: list[dict[str, Any]]) -> list[str | None] | None:
    with_ids = [record for record in records if record["ids"] is not None]
    if not with_ids:
        return None
    if len(with_ids) < len(records):
        raise StoreError(
            f"some writers of {path} gave ids and others none; it stays unfinished: give ids for all or none"
        )
    merged: list[str | None] = []
    for record in records:
        merged.extend(record["ids"][len(merged) - record["start"] :])
    return merged


class StoreWriter:
    """Appends rows to a store or to a part of one; a context manager, which discards the rows after an error inside.

    Until every row is written and the writer is closed, the store is marked as unfinished and ``open_store`` refuses
    it. Made by :func:`create_store` and :func:`open_writer`.
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
        self._part = part  # None: the whole store
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
            self._set_layout(layout)
            return
        if n_rows is not None:
            self._set_layout(self._choose_layout(n_rows))
        self._write_metadata(complete=False)

    @property
    def chunk_rows(self) -> int | None:
        """Rows of a chunk; None until enough rows are appended to choose it."""
        return None if self._layout is None else self._layout.chunk_rows

    @property
    def file_rows(self) -> int | None:
        """Rows of a file (a chunk or a shard), at multiples of which parts begin; None like ``chunk_rows``."""
        return None if self._layout is None else self._layout.file_rows

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.row_shape, dtype=np.int64)) * holder(self.dtype).itemsize

    def _choose_layout(self, n_rows: int) -> Layout:
        return choose_layout(n_rows, self._row_bytes, chunk_rows=self._chunk_rows, shard_size=self._shard_size)

    def _set_layout(self, layout: Layout) -> None:
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
        ids : the trace ids of those rows; given for all rows of the store or for none

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
        self._add_ids(ids, len(values))
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
            self._set_layout(self._choose_layout(self._held_rows))
        if self._layout is not None and self._held_rows >= self._layout.chunk_rows:
            self._flush(self._layout.chunk_rows, last=False)
        else:
            self._held[-1] = self._held[-1].copy()  # the caller may fill its buffer again

    def _add_ids(self, ids: Sequence[str | None] | None, n_rows: int) -> None:
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
        """Write the rows that are held and finish the store; of several writers the last one finishes it.

        Raises
        ------
        StoreError : fewer rows were appended than declared, or none
        """
        if self._closed:
            return
        expected = self.n_rows if self._part is None else len(self._part)
        if self._written == 0 or (expected is not None and self._written < expected):
            self._closed = True
            self._discard_file()
            raise StoreError(
                f"{self.path} got {self._written} rows of {'at least 1' if expected is None else expected}; "
                f"it stays unfinished: append every row before close()"
            )
        if self._layout is None:
            self._set_layout(self._choose_layout(self._written))
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

    def _discard_file(self) -> None:
        if self._files is not None:
            self._files.discard()

    def discard(self) -> None:
        """Remove the store; of a part, only the file under way."""
        self._closed = True
        self._held = []
        self._discard_file()
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


def _clear(path: Path, *, overwrite: bool) -> None:
    """Make room for a store. Nothing but a store is ever removed."""
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
    """Create a store (zarr v3, full-width uncompressed chunks with crc32c), to be filled by :meth:`StoreWriter.append`.

    Parameters
    ----------
    path : folder of the store
    dtype : ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``
    n_rows : number of rows, if known; several writers (:func:`open_writer`) need it
    n_features : columns of a row; follows from ``layer_ids`` and ``hidden`` where both are given
    layered : keep rows as (layers, hidden) instead of (n_features,)
    layer_ids, hidden, model, revision, hook, pooling, token_range : see :class:`StoreAttributes`
    chunk_rows, shard_size : rows of a chunk, bytes of a shard (0: none); by rule when None
    overwrite : replace an existing store

    Raises
    ------
    StoreError : the path is taken, or the attributes do not fit the width
    UsageError : an unknown dtype, or sizes below 1 or that do not divide each other
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
        # Sizes are checked before an old store is removed.
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
    """Open rows ``start`` to ``stop`` (excluded) of a store for writing; :func:`create_store` made it with ``n_rows``.

    Writers of disjoint parts may run at once, in several processes or on several hosts; the one that closes last
    finishes the store. Parts begin at multiples of ``StoreWriter.file_rows`` and end at one or at the last row. A part
    that failed can be written again.

    Raises
    ------
    StoreError : no unfinished store there
    UsageError : a part that does not begin and end at the edge of a file
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
