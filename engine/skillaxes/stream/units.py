"""What is fetched at once: a chunk, or a part of a chunk where the chunk is large and lies uncompressed in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skillaxes.store import Store

UNIT_BYTES = 32 << 20  # a plain chunk above it is fetched in parts


def can_share(store: Store) -> bool:
    """Whether several threads can fetch units: a checksum runs over its chunk in order, pipelines have own threads."""
    return store.plain_chunks() is not None and unit_rows(store) == store.chunk_rows


def unit_rows(store: Store) -> int:
    """Rows of ``store`` that are fetched at once."""
    chunk_bytes = store.chunk_rows * store.n_features * store.itemsize
    if store.plain_chunks() is None or chunk_bytes <= UNIT_BYTES:
        return store.chunk_rows
    least = -(-chunk_bytes // UNIT_BYTES)
    for parts in range(least, min(4 * least, store.chunk_rows) + 1):
        if store.chunk_rows % parts == 0:
            return store.chunk_rows // parts
    return store.chunk_rows  # few divisors: parts of a few rows each would cost more than a large buffer
