"""How large chunks and shards are.

Chunks are full-width, about 8 to 32 MiB by the size of the store, and never more than 1/16 of it, so that a small store
still streams; rows of a chunk are a power of two where there are 64 or more: so are those of a panel, and whole panels
in a chunk, or whole chunks in a panel, are computed with where they lie. Above 50 GB chunks go into shards of 1 GiB:
200 GB in 8 MiB chunks would be 24,000 files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from skillaxes.errors import UsageError

MIB = 2**20
SMALLEST_CHUNK = 8 * MIB
LARGEST_CHUNK = 32 * MIB
CHUNKS_AT_LEAST = 16  # in a store, where it has that many rows
_CHUNKS_WANTED = 64
_ROUND = 64
_SHARD_ABOVE = 50 * 10**9
_SHARD = 1024 * MIB


@dataclass(frozen=True)
class Layout:
    """Rows of a chunk, and of a shard (None: every chunk is a file)."""

    chunk_rows: int
    shard_rows: int | None

    @property
    def file_rows(self) -> int:
        return self.shard_rows or self.chunk_rows


def chunk_rows_for(n_rows: int, row_bytes: int) -> int:
    """Rows of a chunk for a store of ``n_rows`` rows of ``row_bytes`` bytes: at least 1."""
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

    Parameters
    ----------
    n_rows, row_bytes : rows of the store (at least: where it is not known yet), bytes of a row
    chunk_rows : rows of a chunk; by rule when None
    shard_size : bytes of a shard, rounded down to whole chunks; 0 for none; by rule when None

    Raises
    ------
    UsageError : a size that cannot be
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
