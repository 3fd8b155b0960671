"""Law: the parts of all processes are the store, once and in order, cut at chunks, as even as chunks allow."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillaxes.cluster.launch import clip_segments, parts
from skillaxes.errors import UsageError


@given(n_rows=st.integers(1, 5000), chunk_rows=st.integers(1, 700), size=st.integers(1, 70))
def test_parts(n_rows: int, chunk_rows: int, size: int) -> None:
    n_chunks = -(-n_rows // chunk_rows)
    if size > n_chunks:
        with pytest.raises(UsageError, match=f"{size} processes for a store of {n_chunks} chunks"):
            parts(n_rows, chunk_rows, size)
        return
    found = parts(n_rows, chunk_rows, size)
    assert found[0][0] == 0 and found[-1][1] == n_rows
    assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
    assert all(start % chunk_rows == 0 and start < stop for start, stop in found)
    assert max(stop - start for start, stop in found) <= n_rows / size + 1.5 * chunk_rows


@given(
    cuts=st.lists(st.integers(0, 300), min_size=2, max_size=12, unique=True).map(sorted),
    edges=st.lists(st.integers(1, 299), max_size=4, unique=True).map(sorted),
)
def test_segments_are_shared_out_whole(cuts: list[int], edges: list[int]) -> None:
    segments = list(zip(cuts[::2], cuts[1::2], strict=False))
    bounds = [0, *edges, 300]
    own = [clip_segments(segments, rows) for rows in itertools.pairwise(bounds)]
    rows = [row for part in own for start, stop in part for row in range(start, stop)]
    assert rows == [row for start, stop in segments for row in range(start, stop)]
