"""Places of the chunks of a zarr array: chunk files, shards and their indexes, missing chunks, the plain layout.

zarr reads a chunk that is not stored as fill values, silently, so that a lost chunk looks like rows of zeros. Missing
chunks are found here instead. A *grid row* is a row of the chunk grid, the chunks that hold the same rows: one chunk,
unless the columns are split.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skillaxes.errors import StoreError

ABSENT = np.uint64(2**64 - 1)  # offset and length of a chunk that a shard does not hold
CRC_BYTES = 4
_INDEX_ENTRY = 16  # offset and length, uint64 each


def crc32c(data: Any) -> int:
    """CRC-32C of a contiguous array or of bytes."""
    import crc32c

    if isinstance(data, np.ndarray):
        data = data.reshape(-1).view(np.uint8)
    return int(crc32c.crc32c(data))


def parse_index(raw: bytes, n_chunks: int, *, checked: bool, where: str) -> np.ndarray:
    """The index of a shard: uint64 array of shape (n_chunks, 2), offsets and lengths in bytes.

    Raises
    ------
    StoreError : too short, or its crc32c does not hold
    """
    size = n_chunks * _INDEX_ENTRY
    if len(raw) != size + checked * CRC_BYTES:
        raise StoreError(f"shard {where} is shorter than its index; it was cut off: write or copy the store again")
    if checked and crc32c(raw[:size]) != int.from_bytes(raw[size:], "little"):
        raise StoreError(f"the index of shard {where} fails its crc32c; it is damaged: write or copy the store again")
    return np.frombuffer(raw[:size], dtype="<u8").astype(np.uint64).reshape(n_chunks, 2)


def pack_index(index: np.ndarray) -> bytes:
    """The bytes of a shard index (n_chunks, 2), with their crc32c behind them."""
    raw = np.ascontiguousarray(index, dtype="<u8").tobytes()
    return raw + crc32c(raw).to_bytes(CRC_BYTES, "little")


def _index_codecs_checked(codecs: Any) -> bool | None:
    """Whether a shard index carries a crc32c; None where it is encoded otherwise."""
    from zarr.codecs import BytesCodec, Crc32cCodec

    if not codecs or not isinstance(codecs[0], BytesCodec) or getattr(codecs[0].endian, "value", "") != "little":
        return None
    if len(codecs) == 1:
        return False
    return True if len(codecs) == 2 and isinstance(codecs[1], Crc32cCodec) else None


class ChunkMap:
    """The chunks of one zarr array, local or not. Shard indexes are read when needed and cached."""

    def __init__(self, array: Any) -> None:
        from zarr.codecs import ShardingCodec
        from zarr.storage import LocalStore

        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.chunk_shape: tuple[int, ...] = array.chunks
        self.shard_shape: tuple[int, ...] | None = array.shards
        prefix = array.store_path.path
        self.key_prefix = f"{prefix}/" if prefix else ""
        store = array.store_path.store
        self.root: Path | None = Path(store.root) if isinstance(store, LocalStore) else None
        codecs: tuple[Any, ...] = getattr(array.metadata, "codecs", ())
        self.sharding: Any = codecs[0] if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec) else None
        self.index_checked = _index_codecs_checked(self.sharding.index_codecs) if self.sharding else None
        self._indexes: dict[tuple[int, ...], np.ndarray | None] = {}

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Shape of the values in one file: a shard, or a chunk."""
        return self.shard_shape or self.chunk_shape

    @property
    def chunks_per_shard(self) -> tuple[int, ...]:
        return tuple(s // c for s, c in zip(self.file_shape, self.chunk_shape, strict=True))

    @property
    def n_grid_rows(self) -> int:
        return math.ceil(self.shape[0] / self.chunk_shape[0])

    def key(self, file: tuple[int, ...]) -> str:
        return self.key_prefix + str(self._array.metadata.encode_chunk_key(file))

    def local_file(self, file: tuple[int, ...]) -> Path:
        assert self.root is not None
        return self.root / self.key(file)

    def index(self, file: tuple[int, ...]) -> np.ndarray | None:
        """The index of a shard, uint64 (n_chunks, 2); None where the shard is not stored."""
        if file not in self._indexes:
            self._indexes[file] = self._read_index(file)
        return self._indexes[file]

    def _read_index(self, file: tuple[int, ...]) -> np.ndarray | None:
        n_chunks = math.prod(self.chunks_per_shard)
        size = n_chunks * _INDEX_ENTRY + bool(self.index_checked) * CRC_BYTES
        at_start = self.sharding.index_location.value == "start"
        if self.root is None:
            raw = self._remote_part(self.key(file), size, at_start=at_start)
            if raw is None:
                return None
        else:
            try:
                with open(self.local_file(file), "rb") as shard:
                    if not at_start:
                        shard.seek(max(0, shard.seek(0, 2) - size))
                    raw = shard.read(size)
            except FileNotFoundError:
                return None
        return parse_index(raw, n_chunks, checked=bool(self.index_checked), where=self.key(file))

    def _remote_part(self, key: str, size: int, *, at_start: bool) -> bytes | None:
        from zarr.abc.store import RangeByteRequest, SuffixByteRequest
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        part = RangeByteRequest(0, size) if at_start else SuffixByteRequest(size)
        found = sync(self._array.store_path.store.get(key, default_buffer_prototype(), part))
        return None if found is None else bytes(found.to_bytes())

    def _stored_files(self, files: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
        if self.root is not None:
            return {file for file in files if self.local_file(file).is_file()}
        from zarr.core.sync import sync

        async def keys() -> set[str]:
            return {key async for key in self._array.store_path.store.list_prefix(self.key_prefix)}

        stored = sync(keys())
        return {file for file in files if self.key(file) in stored}

    def _inner(self, file: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Yield (grid row, position in the shard index) of the chunks of a shard that lie within the array."""
        per_shard = self.chunks_per_shard
        for position, place in enumerate(product(*map(range, per_shard))):
            chunk = [f * n + p for f, n, p in zip(file, per_shard, place, strict=True)]
            if all(c * size < extent for c, size, extent in zip(chunk, self.chunk_shape, self.shape, strict=True)):
                yield chunk[0], position

    def missing_grid_rows(self) -> list[int]:
        """Grid rows of which at least one chunk is not stored, ascending."""
        grid = [math.ceil(extent / size) for extent, size in zip(self.shape, self.file_shape, strict=True)]
        files = list(product(*map(range, grid)))
        stored = self._stored_files(files)
        missing: set[int] = set()
        for file in files:
            if self.sharding is None or self.index_checked is None:
                if file not in stored:
                    per_file = self.file_shape[0] // self.chunk_shape[0]
                    missing.update(range(file[0] * per_file, min((file[0] + 1) * per_file, self.n_grid_rows)))
                continue
            index = self.index(file) if file in stored else None
            missing.update(row for row, at in self._inner(file) if index is None or index[at, 0] == ABSENT)
        return sorted(missing)


class ChunkLocation(NamedTuple):
    """Place of the values of one chunk.

    path : the file
    offset : first byte of the values
    n_bytes : bytes of values, without the checksum; the last chunk is stored full-size, padded behind the last row
    crc32c : of those bytes, as stored behind them; None where the store has no checksums
    """

    path: Path
    offset: int
    n_bytes: int
    crc32c: int | None


class PlainChunks:
    """Layout of a store with full-width, uncompressed, little-endian chunks in local files, sharded or not."""

    def __init__(self, chunks: ChunkMap, itemsize: int, *, checked: bool) -> None:
        self._chunks = chunks
        self.chunk_rows = chunks.chunk_shape[0]
        self.n_chunks = chunks.n_grid_rows
        self.row_bytes = itemsize
        for extent in chunks.shape[1:]:
            self.row_bytes *= extent
        self.chunk_bytes = self.chunk_rows * self.row_bytes
        self.checked = checked

    def rows(self, chunk: int) -> range:
        """The rows of the store that a chunk holds."""
        start = chunk * self.chunk_rows
        return range(start, min(start + self.chunk_rows, self._chunks.shape[0]))

    def locate(self, chunk: int) -> ChunkLocation:
        """The place of a chunk.

        Raises
        ------
        StoreError : it is not stored, cut off, or of another length than its shard says
        """
        per_shard = self._chunks.chunks_per_shard[0]
        zeros = (0,) * (len(self._chunks.shape) - 1)
        file = (chunk // per_shard, *zeros)
        path = self._chunks.local_file(file)
        length = self.chunk_bytes + self.checked * CRC_BYTES
        offset = 0
        if self._chunks.sharding is not None:
            index = self._chunks.index(file)
            entry = None if index is None else index[chunk % per_shard]
            if entry is None or entry[0] == ABSENT:
                raise self._missing(chunk, path)
            offset, stored = int(entry[0]), int(entry[1])
            if stored != length:
                raise StoreError(f"chunk {chunk} in {path} has {stored} bytes, not {length}; the shard is damaged")
        try:
            with open(path, "rb", buffering=0) as opened:
                size = opened.seek(0, 2)
                if size < offset + length or (self._chunks.sharding is None and size != length):
                    raise StoreError(
                        f"{path} has {size} bytes, but chunk {chunk} needs {offset + length}; "
                        f"it was cut off or overwritten: write or copy the store again"
                    )
                crc = None
                if self.checked:
                    opened.seek(offset + self.chunk_bytes)
                    crc = int.from_bytes(opened.read(CRC_BYTES), "little")
        except FileNotFoundError:
            raise self._missing(chunk, path) from None
        return ChunkLocation(path, offset, self.chunk_bytes, crc)

    def _missing(self, chunk: int, path: Path) -> StoreError:
        rows = self.rows(chunk)
        return StoreError(
            f"chunk {chunk} (rows {rows[0]} to {rows[-1]}) is not stored in {path}; "
            f"zarr would read it as fill values: write or copy the store again"
        )


def _plain_codecs(codecs: Any) -> tuple[bool, str | None]:
    """(whether a crc32c follows the values, the reason why the codecs are not plain or None)."""
    from zarr.codecs import BytesCodec, Crc32cCodec

    names = [type(codec).__name__.removesuffix("Codec").lower() for codec in codecs]
    if not codecs or not isinstance(codecs[0], BytesCodec):
        return False, f"chunks are encoded by {', '.join(names)}"
    if getattr(codecs[0].endian, "value", "little") != "little":
        return False, "values are big-endian"
    if len(codecs) == 1:
        return False, None
    if len(codecs) == 2 and isinstance(codecs[1], Crc32cCodec):
        return True, None
    return False, f"chunks are encoded by {', '.join(names)}"


def _v2_reason(metadata: Any) -> str | None:
    if metadata.compressor is not None or metadata.filters:
        return f"chunks are encoded by {metadata.compressor or metadata.filters}"
    if metadata.order != "C":
        return "chunks are in Fortran order"
    if metadata.dtype.to_native_dtype().str.startswith(">"):
        return "values are big-endian"
    return None


def plain_layout(array: Any, chunks: ChunkMap, itemsize: int) -> tuple[PlainChunks | None, str]:
    """The plain layout of an array, or None, and the reason for either."""
    if sys.byteorder != "little":
        return None, "this machine is big-endian"
    if chunks.root is None:
        return None, "the store is not a local folder"
    if chunks.chunk_shape[1:] != chunks.shape[1:] or chunks.file_shape[1:] != chunks.shape[1:]:
        return None, f"chunks of shape {chunks.chunk_shape} are not as wide as the rows {chunks.shape[1:]}"
    if array.metadata.zarr_format == 2:
        checked, reason = False, _v2_reason(array.metadata)
    elif chunks.sharding is not None:
        checked, reason = _plain_codecs(chunks.sharding.codecs)
        if reason is None and chunks.index_checked is None:
            reason = "shard indexes are encoded in an unusual way"
    else:
        checked, reason = _plain_codecs(array.metadata.codecs)
    if reason is not None:
        return None, reason
    return PlainChunks(chunks, itemsize, checked=checked), "full-width chunks of plain little-endian values"
