"""The law: a unit stays untouched until ``lag + 1`` further ones were asked for, however far the reader reads ahead."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from device_jobs import CHUNK, N, make_store

from skillaxes.store import open_store
from skillaxes.stream.reader import Reader


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_units_behind_stay_untouched(tmp_path: Path, lag: int) -> None:
    store = open_store(make_store(tmp_path))
    behind: list[tuple[torch.Tensor, torch.Tensor]] = []
    for _, rows in Reader(store, 0, N, lag=lag).units(verify=True):
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
        for first, rows in reader.units(verify=True, from_row=from_row):
            assert first == start
            assert torch.equal(rows, everything[first : first + len(rows)])
            start += len(rows)
        assert start == N
    kept = min(5 * CHUNK, N - from_row // CHUNK * CHUNK)
    assert reader.bytes_read - before == (N - from_row // CHUNK * CHUNK - kept) * 400, "what is cached comes first"
