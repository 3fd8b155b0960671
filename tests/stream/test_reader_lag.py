"""The law: units come in order, whole and checked, however many threads fetch them; a unit stays untouched until
``lag + 1`` further ones were asked for, however far the reader reads ahead.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from device_jobs import CHUNK, D, N, make_store

from skillaxes.errors import StoreError
from skillaxes.store import open_store
from skillaxes.stream.reader import Reader


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("lag", [0, 1, 3])
def test_units_behind_stay_untouched(tmp_path: Path, lag: int, workers: int) -> None:
    store = open_store(make_store(tmp_path))
    behind: list[tuple[torch.Tensor, torch.Tensor]] = []
    for _, rows in Reader(store, 0, N, lag=lag, workers=workers).fetch_units(verify=True):
        behind = [*behind, (rows, rows.clone())][-lag - 1 :]
        time.sleep(0.002)  # the reader fills every buffer that it may
        assert all(torch.equal(unit, before) for unit, before in behind)


@pytest.mark.parametrize("from_row", [0, 1, CHUNK, 10 * CHUNK + 5, N - 1])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_read_from_a_later_row(tmp_path: Path, from_row: int, compressed: bool) -> None:
    store = open_store(make_store(tmp_path, compressed=compressed))
    reader = Reader(store, 0, N, cache_bytes=5 * CHUNK * 400)
    reader.cached_from = from_row
    everything = torch.from_numpy(store.read_rows(0, N))
    for _ in range(2):
        before = reader.bytes_read
        start = from_row // CHUNK * CHUNK
        for first, rows in reader.fetch_units(verify=True, from_row=from_row):
            assert first == start
            assert torch.equal(rows, everything[first : first + len(rows)])
            start += len(rows)
        assert start == N
    kept = min(5 * CHUNK, N - from_row // CHUNK * CHUNK)
    assert reader.bytes_read - before == (N - from_row // CHUNK * CHUNK - kept) * 400, "what is cached comes first"


@pytest.mark.parametrize("layout", [{}, {"shard_size": 5 * CHUNK * 400}, {"compressed": True}])
@pytest.mark.parametrize(("first", "last"), [(0, N), (500, 2711)])
def test_several_threads_fetch_the_same(tmp_path: Path, layout: dict[str, Any], first: int, last: int) -> None:
    """Rows, order and counts are those of one thread; sampled rows come from where they are remembered."""
    store = open_store(make_store(tmp_path, **layout))
    everything = torch.from_numpy(store.read_rows(0, N))
    counts = []
    for workers in (1, 4):
        reader = Reader(store, first, last, workers=workers)
        assert reader._workers == (1 if "compressed" in layout else workers)
        sampled = torch.empty((40, D), dtype=torch.float16)
        reader.rows(first + 60, first + 100, sampled)
        assert torch.equal(sampled, everything[first + 60 : first + 100])
        for verify in (True, False):
            at = first
            for start, rows in reader.fetch_units(verify=verify):
                assert start == at and torch.equal(rows, everything[start : start + len(rows)])
                at += len(rows)
            assert at == last
        counts.append((reader.bytes_read, reader.rows_read_twice))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_damaged_chunk_is_an_error_at_its_place(tmp_path: Path, workers: int) -> None:
    path = make_store(tmp_path)
    damaged = path / "c" / "7" / "0"
    values = bytearray(damaged.read_bytes())
    values[1000] ^= 1
    damaged.write_bytes(values)
    reader, seen = Reader(open_store(path), 0, N, workers=workers), []
    with pytest.raises(StoreError, match="rows 679 to 775 fail their checksum"):
        seen.extend(start for start, _ in reader.fetch_units(verify=True))
    assert seen == [CHUNK * number for number in range(7)]
    assert sum(1 for _ in reader.fetch_units(verify=False)) == 31, "a reader can be used again"
