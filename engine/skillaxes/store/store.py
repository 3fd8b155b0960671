"""Opening a store, with checks; its rows by number, its columns by layer, its chunks, its fingerprint."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.errors import StoreError
from skillaxes.store.attributes import COMPLETE, OURS, StoreAttributes, fit, parse
from skillaxes.store.chunks import ChunkMap, PlainChunks, plain_layout
from skillaxes.store.dtypes import DTYPES, holder
from skillaxes.store.trace_ids import look_up

_SAMPLED_ROWS = 16  # of the fingerprint: enough to tell stores apart, few enough to cost no read
_ZARRS = "zarrs.ZarrsCodecPipeline"
_NAMED = 8  # arrays of a group that a message names


@dataclass(frozen=True, eq=False)
class Store:
    """A zarr array of activations, one row per trace; made by :func:`skillaxes.store.open_store`.

    path : a folder or a URL
    shape : of the zarr array, (n_rows, n_features) or (n_rows, layers, hidden)
    dtype : ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``
    attributes : layers, model, tokens, as far as known
    columns : the columns that were asked for with ``layers``; one slice over all columns by default
    pipeline, pipeline_reason : the codec pipeline that decodes chunks (``"zarrs"`` or ``"zarr"``), and the reason
    array : the zarr array
    """

    path: Path | str
    shape: tuple[int, ...]
    dtype: str
    attributes: StoreAttributes
    columns: tuple[slice, ...]
    pipeline: str
    pipeline_reason: str
    array: Any = field(repr=False)

    @property
    def n_rows(self) -> int:
        return self.shape[0]

    @cached_property
    def n_features(self) -> int:
        """Number of all columns, not only of those in ``columns``."""
        count = 1
        for extent in self.shape[1:]:
            count *= extent
        return count

    @property
    def itemsize(self) -> int:
        return holder(self.dtype).itemsize

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk; of an inner chunk where the store has shards."""
        return self._chunks.chunk_shape

    @property
    def shard_shape(self) -> tuple[int, ...] | None:
        return self._chunks.shard_shape

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk, the unit of decoding."""
        return self._chunks.chunk_shape[0]

    @property
    def n_chunks(self) -> int:
        """Rows of the chunk grid: chunks, where those that split the columns count once."""
        return self._chunks.n_grid_rows

    @property
    def nbytes(self) -> int:
        return self.n_rows * self.n_features * self.itemsize

    @cached_property
    def _chunks(self) -> ChunkMap:
        return ChunkMap(self.array)

    @cached_property
    def _plain(self) -> tuple[PlainChunks | None, str]:
        return plain_layout(self.array, self._chunks, self.itemsize)

    @cached_property
    def _missing(self) -> tuple[int, ...]:
        return tuple(self._chunks.missing_grid_rows())

    @property
    def plain_reason(self) -> str:
        """The reason for the answer of :meth:`plain_chunks`."""
        return self._plain[1]

    def plain_chunks(self) -> PlainChunks | None:
        """The layout of a store of plain numbers in local files; else None, see :attr:`plain_reason`."""
        return self._plain[0]

    def missing_chunks(self) -> list[int]:
        """Numbers of chunks that are not stored (inner ones of shards too), which zarr would read as fill values."""
        return list(self._missing)

    def columns_of(self, layers: Sequence[int]) -> tuple[slice, ...]:
        """The columns of those layers, in column order, adjacent ones merged.

        Raises
        ------
        StoreError : the layers of the store are unknown, or some of ``layers`` are not among them
        """
        ids, hidden = self.attributes.layer_ids, self.attributes.hidden
        if ids is None or hidden is None:
            raise StoreError(
                f"{self.path} does not say which layers its columns are; "
                f"ingest it again with --layer-ids and --hidden, or leave out --layers"
            )
        unknown = [layer for layer in layers if layer not in ids]
        if unknown or not layers:
            asked = ", ".join(map(str, unknown)) or "none"
            raise StoreError(f"layer {asked} is not in {self.path}; its layers are {', '.join(map(str, ids))}")
        merged: list[slice] = []
        for place in sorted({ids.index(layer) for layer in layers}):
            start = place * hidden
            if merged and merged[-1].stop == start:
                merged[-1] = slice(merged[-1].start, start + hidden)
            else:
                merged.append(slice(start, start + hidden))
        return tuple(merged)

    def read_rows(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Read rows ``start`` to ``stop`` (excluded) through zarr, all columns.

        Parameters
        ----------
        out : C-ordered array of shape (stop - start, n_features) in the holder dtype to decode into; made if None

        Returns
        -------
        array of shape (stop - start, n_features), C order; bfloat16 as its bits in uint16

        Raises
        ------
        StoreError : a chunk that is not stored, fails its checksum or cannot be decoded
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start} to {stop} of {self.n_rows}")
        wanted = ((stop - start, self.n_features), holder(self.dtype))
        if out is None:
            out = np.empty(*wanted)
        elif (out.shape, out.dtype) != wanted or not out.flags.c_contiguous:
            raise ValueError(f"out must be a C-ordered array of shape {wanted[0]} and dtype {wanted[1]}")
        if start == stop:
            return out
        self._refuse_missing(start, stop)
        from zarr.core.buffer import default_buffer_prototype

        block = out.reshape((stop - start, *self.shape[1:]))
        buffer = default_buffer_prototype().nd_buffer.from_numpy_array(block)
        try:
            self.array.get_basic_selection((slice(start, stop),), out=buffer)
        except (OSError, ValueError, RuntimeError, TypeError, LookupError) as error:
            cause = " ".join(str(error).split())
            raise StoreError(
                f"rows {start} to {stop - 1} of {self.path} cannot be read ({cause}); "
                f"the store is damaged there: write or copy it again"
            ) from error
        return out

    def _refuse_missing(self, start: int, stop: int) -> None:
        first, last = start // self.chunk_rows, (stop - 1) // self.chunk_rows
        lost = [chunk for chunk in self._missing if first <= chunk <= last]
        if lost:
            begin = lost[0] * self.chunk_rows
            end = min(begin + self.chunk_rows, self.n_rows) - 1
            raise StoreError(
                f"chunk {lost[0]} (rows {begin} to {end}) of {self.path} is not stored; "
                f"zarr would read it as fill values: write or copy the store again"
            )

    def trace_ids(self, rows: Sequence[int] | np.ndarray) -> list[str | None]:
        """The trace ids of some rows; None where the store has none.

        Raises
        ------
        StoreError : the ids are damaged or fewer than the rows
        """
        return look_up(self.array.attrs, self.path, self._chunks, [int(row) for row in rows])

    def fingerprint(self) -> str:
        """SHA-256 over shape, dtype and a few rows, chosen by a seed: tells stores apart.

        Path, chunking and attributes do not count: a staged copy or another chunking of the same rows has the same
        fingerprint.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        shape = (self.n_rows, self.n_features)
        digest = hashlib.sha256(json.dumps([*shape, self.dtype]).encode())
        seeds = (hashlib.sha256(f"{shape}:{draw}".encode()).digest() for draw in range(_SAMPLED_ROWS - 2))
        drawn = {int.from_bytes(seed[:8], "little") % self.n_rows for seed in seeds}
        for row in sorted(drawn | {0, self.n_rows - 1}):
            digest.update(self._one_row(row))
        return digest.hexdigest()

    def _one_row(self, row: int) -> bytes:
        plain = self.plain_chunks()
        if plain is None:
            values = self.read_rows(row, row + 1)
            return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        chunk = row // self.chunk_rows
        location = plain.locate(chunk)
        with open(location.path, "rb", buffering=0) as opened:
            opened.seek(location.offset + (row - chunk * self.chunk_rows) * plain.row_bytes)
            return opened.read(plain.row_bytes)


def _is_url(path: Path | str) -> bool:
    return isinstance(path, str) and "://" in path


def _check_path(path: Path | str) -> None:
    if _is_url(path):
        return
    place = Path(path)
    if not place.exists():
        raise StoreError(f"there is no store at {path}; make one with `skillaxes ingest SOURCE {path}`")
    if place.is_file():
        raise StoreError(
            f"{path} is a file; needed: a zarr store (a folder), made from it with `skillaxes ingest {path} STORE`"
        )


def _open(path: Path | str, pipeline: str, *, strict: bool) -> Any:
    import zarr

    from skillaxes.store.bfloat16 import bfloat16_known

    with bfloat16_known(), zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.strict": strict}):
        return zarr.open(path, mode="r")


def _why_not_zarrs(array: Any) -> str | None:
    """The reason to decode this array by zarr's own pipeline even where ``zarrs`` is installed; None without one."""
    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

    codecs: tuple[Any, ...] = getattr(array.metadata, "codecs", ())
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        codecs = codecs[0].codecs
    if [type(codec) for codec in codecs] == [BytesCodec, Crc32cCodec]:
        return "zarr checks the crc32c of large uncompressed chunks faster than zarrs"
    return None


def _choose_pipeline(path: Path | str, plain: Any) -> tuple[Any, str, str]:
    """(array, pipeline, reason), given the array opened by zarr's own pipeline."""
    why_not = _why_not_zarrs(plain)
    if why_not is not None:
        return plain, "zarr", why_not
    try:
        import zarrs  # noqa: F401
    except ImportError:
        return plain, "zarr", "the package zarrs is not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _open(path, _ZARRS, strict=True), "zarrs", "zarrs decodes these codecs"
    except Exception as error:  # zarr's own pipeline decodes what zarrs declines
        cause = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        return plain, "zarr", f"zarrs declined: {cause}"


def _refuse_group(path: Path | str, group: Any) -> StoreError:
    found = [f"{name} {member.shape}" for name, member in group.members(max_depth=None) if hasattr(member, "shape")]
    if not found:
        return StoreError(f"{path} is a zarr group without arrays; needed: an array of activations, one row per trace")
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return StoreError(
        f"{path} is a zarr group; name the array in it, e.g. {str(path).rstrip('/')}/{found[0].split(' ')[0]} "
        f"(it holds {', '.join(found[:_NAMED])}{more})"
    )


def _dtype_name(path: Path | str, array: Any) -> str:
    from skillaxes.store.bfloat16 import BFloat16

    kind = array.metadata.data_type if array.metadata.zarr_format == 3 else array.metadata.dtype
    name = "bfloat16" if isinstance(kind, BFloat16) else array.dtype.newbyteorder("=").name
    if name not in DTYPES:
        raise StoreError(
            f"{path} holds {name}; needed: {', '.join(DTYPES)}; "
            f"convert it, e.g. x.astype('float32'), and ingest it again"
        )
    return str(name)


def _check_shape(path: Path | str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3):
        raise StoreError(
            f"{path} has shape {shape}; needed: (rows, features) or (rows, layers, hidden), one row per trace"
        )
    if 0 in shape:
        raise StoreError(f"{path} has shape {shape}: there is nothing in it; needed: at least one row and one column")


def open_store(path: Path | str, *, layers: Sequence[int] | None = None) -> Store:
    """Open a store of activations for reading.

    Parameters
    ----------
    path : a zarr array (v3 or v2): a folder, or a URL that fsspec knows
    layers : layer ids whose columns are wanted (``Store.columns``); all by default

    Raises
    ------
    StoreError : no store there, a group, an unfinished store, a shape or dtype that no store has, attributes that do
        not fit the shape, unknown layers
    """
    _check_path(path)
    try:
        found = _open(path, "zarr.core.codec_pipeline.BatchedCodecPipeline", strict=False)
    except FileNotFoundError:
        raise StoreError(f"{path} is no zarr store: it has neither zarr.json nor .zarray") from None
    except Exception as error:
        cause = " ".join(str(error).split())
        raise StoreError(f"{path} cannot be opened as a zarr store: {cause}") from error
    if not hasattr(found, "shape"):
        raise _refuse_group(path, found)
    state = found.attrs.get(OURS)
    if isinstance(state, dict) and state.get(COMPLETE) is False:
        raise StoreError(
            f"{path} is unfinished: its writer was stopped before it closed the store; write it again, "
            f"or have every part's writer close()"
        )
    _check_shape(path, found.shape)
    dtype = _dtype_name(path, found)
    try:
        attributes = fit(parse(found.attrs), found.shape[1:])
    except StoreError as error:
        raise StoreError(f"the attributes of {path} do not fit it: {error}") from None
    array, pipeline, reason = _choose_pipeline(path, found)
    n_features = 1
    for extent in found.shape[1:]:
        n_features *= extent
    store = Store(
        path=path,
        shape=tuple(found.shape),
        dtype=dtype,
        attributes=attributes,
        columns=(slice(0, n_features),),
        pipeline=pipeline,
        pipeline_reason=reason,
        array=array,
    )
    if layers is None:
        return store
    from dataclasses import replace

    return replace(store, columns=store.columns_of(layers))
