"""The fast way in: rows that lie as plain numbers in local files, so that a reader can fetch them without a codec.

It must equal the way through zarr, value for value; ``tests/store/test_plain.py`` holds it to that.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from skillaxes.errors import StoreError
from skillaxes.store.chunks import ABSENT, CRC_BYTES, ChunkMap


class ChunkLocation(NamedTuple):
    """Where the values of one chunk lie.

    path : the file
    offset : first byte of the values
    n_bytes : bytes of values, without the checksum; a last chunk is stored full-size, with filling behind the last row
    crc32c : of those bytes, as stored behind them; None where the store keeps none
    """

    path: Path
    offset: int
    n_bytes: int
    crc32c: int | None


class PlainChunks:
    """Layout of a store whose chunks are full-width, uncompressed, little-endian and in local files, sharded or not."""

    def __init__(self, chunks: ChunkMap, itemsize: int, *, checked: bool) -> None:
        self._chunks = chunks
        self.chunk_rows = chunks.chunk_shape[0]
        self.n_chunks = chunks.n_bands
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
        """Where a chunk lies.

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
    """(whether a crc32c follows the values, why the codecs are not plain)."""
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
