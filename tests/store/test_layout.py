"""Law: chunks are 8 to 32 MiB, at most 1/16 of the store, at least a row; shards come above 50 GB."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillaxes.store.writer import LARGEST_CHUNK, MIB, SMALLEST_CHUNK, choose_layout, chunk_rows_for


@given(n_rows=st.integers(1, 10**8), row_bytes=st.integers(2, 8 * 122_880))
def test_the_rule(n_rows: int, row_bytes: int) -> None:
    rows = chunk_rows_for(n_rows, row_bytes)
    assert rows >= 1
    assert rows == 1 or 16 * rows <= n_rows
    assert rows == 1 or rows * row_bytes <= LARGEST_CHUNK == 32 * MIB
    if n_rows * row_bytes >= 16 * SMALLEST_CHUNK:
        # Less than 8 MiB only by rounding down to a power of two, or to whole rows.
        assert (2 * rows if rows >= 64 else rows + 64) * row_bytes > SMALLEST_CHUNK
    assert rows < 64 or rows & (rows - 1) == 0, "whole panels, whose rows are a power of two, fit in"


@pytest.mark.parametrize(
    ("n_rows", "row_bytes", "chunk_rows", "shard_rows"),
    [
        (1000, 4608, 62, None),  # small: 1/16
        (4096, 9216, 256, None),
        (50_000, 61_440, 512, None),  # 3 GB: 32 MiB
        (10_000_000, 8192, 4096, 131_072),  # 82 GB: 32 MiB in 1 GiB
        (800_000, 245_760, 128, 4352),
    ],
)
def test_examples(n_rows: int, row_bytes: int, chunk_rows: int, shard_rows: int | None) -> None:
    layout = choose_layout(n_rows, row_bytes)
    assert (layout.chunk_rows, layout.shard_rows) == (chunk_rows, shard_rows)


def test_shards_are_whole_chunks_and_no_longer_than_the_store() -> None:
    assert choose_layout(1000, 1000, chunk_rows=10, shard_size=25_000).shard_rows == 20
    assert choose_layout(1000, 1000, chunk_rows=10, shard_size=10**12).shard_rows == 1000
    assert choose_layout(10**8, 8192, shard_size=0).shard_rows is None
