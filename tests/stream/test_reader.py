"""The law: a read delivers every row once, in order, whatever the layout and whatever is cached.

However it ends, no thread is left behind, and an error in the thread is the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reader_stores import CHUNK, D, N, all_rows
from support.matrices import write_store

from skillaxes.store import Store, open_store
from skillaxes.stream.panels import PanelStream
from skillaxes.stream.reader import SLOTS, Reader

pytestmark = pytest.mark.usefixtures("no_threads_left")


@pytest.mark.parametrize("cached", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("part", [(0, N), (0, 1), (CHUNK, 2 * CHUNK), (137, 2222), (N - 1, N)])
def test_every_row_once(path: Path, rows: np.ndarray, part: tuple[int, int], cached: float) -> None:
    """Any part of the store, with any part of it cached, again and again."""
    first, last = part
    reader = Reader(open_store(path), first, last, cache_bytes=int(cached * (last - first) * D * 2))
    for number in range(3):
        before = reader.bytes_read
        np.testing.assert_array_equal(all_rows(reader, verify=number == 0), rows[first:last])
        fetched = reader.bytes_read - before
        if number == 0:
            assert fetched == (last - first) * D * 2
        else:
            kept = sum(len(block) for block in reader._cache.values())
            assert fetched == (last - first - kept) * D * 2, "what is cached is not fetched again"


@pytest.mark.parametrize("cached", [0, 10**9])
def test_sampled_rows_are_not_fetched_twice(path: Path, rows: np.ndarray, layout: str, cached: int) -> None:
    """Rows picked before the first read; of plain files the read takes them from there."""
    reader = Reader(open_store(path), 0, N, cache_bytes=cached)
    segments = [(0, 32), (90, 110), (777, 809), (2995, N), (1500, 1501)]
    kept = []
    for start, stop in segments:
        out = torch.empty((stop - start, D), dtype=torch.float16)
        reader.rows(start, stop, out)
        np.testing.assert_array_equal(out.double().numpy(), rows[start:stop])
        kept.append(out)
    np.testing.assert_array_equal(all_rows(reader), rows)
    sampled = sum(stop - start for start, stop in segments)
    twice = 0 if cached or layout != "compressed" else sampled
    assert reader.rows_read_twice == twice
    assert reader.bytes_read == (N + twice) * D * 2
    np.testing.assert_array_equal(all_rows(reader, verify=False), rows)


@pytest.mark.parametrize("stop_after", [0, 1, SLOTS, 7])
def test_a_read_that_is_left_early(path: Path, rows: np.ndarray, stop_after: int) -> None:
    """The thread ends with it, and the next read is whole."""
    for cached in (0, 10**9):
        reader = Reader(open_store(path), 0, N, cache_bytes=cached)
        units = reader.fetch_units(verify=True)
        for _ in range(stop_after):
            next(units)
        units.close()
        assert not [one for one in threading.enumerate() if one.name == "skillaxes-reader"]
        np.testing.assert_array_equal(all_rows(reader), rows)


def test_a_loop_that_fails(path: Path) -> None:
    """An exception in the consumer, with the generator still alive in its frame, as in the engine."""
    stream = PanelStream(open_store(path), panel_rows=64, device=torch.device("cpu"))

    def consume() -> None:
        for panel in stream.read():
            if panel.start > 500:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert sum(panel.count for panel in stream.read()) == N


@pytest.mark.parametrize("error", [OSError("disk on fire"), MemoryError(), KeyboardInterrupt(), ValueError("odd")])
def test_an_error_in_the_thread_reaches_the_caller(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The very exception, whatever it is, after the rows that came before it."""
    calls = []

    def fail(self: Reader, unit: int, slot: object, verify: bool, original: Callable = Reader._unit) -> object:
        calls.append(unit)
        if unit == 5:
            raise error
        return original(self, unit, slot, verify)

    def fail_mapped(self: Reader, unit: int, original: Callable = Reader._mapped) -> object:
        calls.append(unit)
        if unit == 5:
            raise error
        return original(self, unit)

    monkeypatch.setattr(Reader, "_unit", fail)
    monkeypatch.setattr(Reader, "_mapped", fail_mapped)
    reader = Reader(open_store(path), 0, N)
    seen = []
    with pytest.raises(type(error)) as caught:
        for start, _ in reader.fetch_units(verify=False):
            seen.append(start)
    assert caught.value is error
    assert seen == [unit * CHUNK for unit in range(5)]
    assert max(calls) == 5, "nothing is read behind the error"


def test_reading_runs_ahead_but_not_away(path: Path) -> None:
    """The thread fills what buffers there are while the consumer works, and no more."""
    store = open_store(path)
    reader = Reader(store, 0, N)
    slots = SLOTS - reader.is_mapped  # a panel may hold one more mapped unit
    units = reader.fetch_units(verify=False)
    _, block = next(units)
    first = block.clone()
    for _ in range(200):
        if reader.bytes_read >= slots * CHUNK * D * 2:
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.05)
    assert reader.bytes_read == slots * CHUNK * D * 2
    assert torch.equal(block, first), "a yielded unit is not overwritten before the next one is asked for"
    assert len(reader._slots) == slots
    units.close()


def test_no_file_stays_open(path: Path) -> None:
    import os

    store = open_store(path)
    all_rows(Reader(store, 0, N))
    before = len(os.listdir("/proc/self/fd"))
    reader = Reader(store, 0, N)
    for _ in range(3):
        all_rows(reader)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_read_paths(tmp_path: Path, rows: np.ndarray) -> None:
    """Which read path is taken can be asked, with its reason."""
    plain = open_store(write_store(tmp_path / "plain", rows, "float16"))
    packed = open_store(write_store(tmp_path / "packed", rows, "float16", compressed=True))
    assert Reader(plain, 0, N).read_path == "plain files"
    assert Reader(packed, 0, N).read_path == f"zarr ({packed.pipeline})"
    assert isinstance(packed, Store) and "zstd" in packed.plain_reason


def test_mapped_rows_lie_in_the_files_and_go_with_their_last_user(tmp_path: Path, rows: np.ndarray) -> None:
    """No copy, no buffer: a unit is a piece of the file, mapped while someone holds it."""
    reader = Reader(open_store(write_store(tmp_path / "store", rows, "float16", chunk_rows=CHUNK)), 0, N)

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path / "store"))

    held = [block for _, block in reader.fetch_units(verify=True)]
    assert maps() == N // CHUNK
    assert np.array_equal(torch.cat(held).numpy(), rows)
    del held
    assert maps() == 0
    assert reader.bytes_read == N * D * 2
    for _ in reader.fetch_units(verify=False):
        assert maps() <= SLOTS + 1, "the thread does not map ahead of its consumer without end"


def test_sampled_rows_are_pieces_of_the_first_read(tmp_path: Path, rows: np.ndarray) -> None:
    """They come from memory, between pieces of the file that hold the others, and every byte is fetched once."""
    reader = Reader(open_store(write_store(tmp_path / "store", rows, "float16", chunk_rows=CHUNK)), 0, N)
    sampled = [(0, 7), (95, 130), (130, 131), (600, 700), (N - 3, N)]
    buffers = [torch.empty((stop - start, D), dtype=torch.float16) for start, stop in sampled]
    for (start, stop), out in zip(sampled, buffers, strict=True):
        reader.rows(start, stop, out)
    seen = list(reader.fetch_units(verify=True))
    assert np.array_equal(torch.cat([block for _, block in seen]).numpy(), rows)
    starts = [start for start, _ in seen]
    assert starts == sorted(starts) and {7, 95, 130, 131, 600, 700, N - 3} <= set(starts)
    assert any(block.data_ptr() == buffers[3].data_ptr() for _, block in seen)
    assert reader.bytes_read == N * D * 2 and reader.rows_read_twice == 0


def test_viewed_rows_lie_where_they_are_stored_and_are_fetched_once(tmp_path: Path, rows: np.ndarray) -> None:
    reader = Reader(open_store(write_store(tmp_path / "store", rows, "float16", chunk_rows=CHUNK)), 0, N)
    segments = [(0, 7), (95, 230), (N - 3, N)]
    pieces = reader.view_rows(segments)
    assert np.array_equal(torch.cat(pieces).numpy(), np.concatenate([rows[start:stop] for start, stop in segments]))
    assert [len(piece) for piece in pieces] == [7, 5, 100, 30, 3], "a piece lies in one chunk"
    seen = list(reader.fetch_units(verify=True))
    assert np.array_equal(torch.cat([block for _, block in seen]).numpy(), rows)
    assert reader.bytes_read == N * D * 2 and reader.rows_read_twice == 0


def test_rows_that_were_released_are_unmapped_by_the_thread_that_reads(tmp_path: Path, rows: np.ndarray) -> None:
    reader = Reader(open_store(write_store(tmp_path / "store", rows, "float16", chunk_rows=CHUNK)), 0, N)

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path / "store"))

    for _, block in reader.fetch_units(verify=False):
        reader.release([block])
        del block
        assert maps() <= SLOTS + 2
    assert maps() == 0, "the last ones go with the read"
