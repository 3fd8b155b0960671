"""Which rows are whose: one contiguous part a process, cut at chunks, balanced by bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skillaxes.errors import UsageError

if TYPE_CHECKING:
    from skillaxes.store import Store


def own_rows(store: Store, rank: int, size: int) -> tuple[int, int]:
    """(first, last) of the rows of process ``rank`` of ``size``, last excluded.

    Raises
    ------
    UsageError : more processes than chunks
    """
    return parts(store.n_rows, store.chunk_rows, size)[rank]


def parts(n_rows: int, chunk_rows: int, size: int) -> list[tuple[int, int]]:
    """The rows of every process, in order: cut at the chunk nearest to an even share, at least one chunk each.

    Raises
    ------
    UsageError : more processes than chunks
    """
    n_chunks = -(-n_rows // chunk_rows)
    if size > n_chunks:
        raise UsageError(
            f"{size} processes for a store of {n_chunks} chunks: each takes at least one; start {n_chunks} or fewer, "
            "or ingest the store again with smaller chunks"
        )
    cuts = [0]
    for number in range(1, size):
        even = round(number * n_rows / size / chunk_rows)
        cuts.append(min(max(even, cuts[-1] + 1), n_chunks - (size - number)))
    cuts.append(n_chunks)
    return [(cuts[i] * chunk_rows, min(cuts[i + 1] * chunk_rows, n_rows)) for i in range(size)]


def within(segments: Sequence[tuple[int, int]], rows: tuple[int, int]) -> list[tuple[int, int]]:
    """The parts of some (start, stop) segments that lie within ``rows``."""
    clipped = [(max(start, rows[0]), min(stop, rows[1])) for start, stop in segments]
    return [(start, stop) for start, stop in clipped if start < stop]
