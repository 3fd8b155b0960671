"""The law: what is missing, cut off or damaged ends a read with an error that says where; checksums are paid once.

However it ends, no thread is left behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reader_stores import CHUNK, D, N, all_rows
from support.matrices import write_store

import skillaxes
from skillaxes.errors import StoreError
from skillaxes.store import open_store
from skillaxes.stream import reader as units
from skillaxes.stream.panels import PanelStream
from skillaxes.stream.reader import ChunkChecks, Reader, fetch_rows

pytestmark = pytest.mark.usefixtures("no_threads_left")


def _flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x01
    file.write_bytes(data)


def chunk_file(path: Path, layout: str, chunk: int) -> Path:
    return path / "c" / str(chunk // 4 if layout == "shards" else chunk) / "0"


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": lambda file: file.unlink(),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "empty": lambda file: file.write_bytes(b""),
    "a bit": lambda file: _flip(file, 333),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("chunk", [0, 13, N // CHUNK - 1])
def test_damage_is_named(path: Path, tmp_path: Path, layout: str, damage: str, chunk: int) -> None:
    """In a chunk that the sample has touched or not; with the cache (compressed) or without; nothing is written."""
    file = chunk_file(path, layout, chunk)
    DAMAGES[damage](file)
    with pytest.raises(StoreError) as caught:
        skillaxes.discover(path, tmp_path / "run", components=3)
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 2
    numbers = {int(word.replace(",", "")) for word in re.findall(r"\d[\d,]*", message)}
    named = str(file.relative_to(path).parent) in message or chunk in numbers
    assert named or numbers & set(range(chunk * CHUNK, (chunk + 1) * CHUNK)), "it does not say where"
    assert not (tmp_path / "run").exists()


def test_damage_without_a_cache(tmp_path: Path, rows: np.ndarray) -> None:
    path = write_store(tmp_path / "store", rows, "float16", compressed=True, chunk_rows=CHUNK)
    _flip(chunk_file(path, "compressed", 7), 60)
    for cached in (0, 10**9):
        with pytest.raises(StoreError, match="rows 700 to 799"):
            all_rows(Reader(open_store(path), 0, N, cache_bytes=cached))


def test_chunks_that_trade_places(tmp_path: Path, rows: np.ndarray) -> None:
    """Both are whole and have good checksums: nobody can tell, and nothing is claimed. But a missing one is seen."""
    path = write_store(tmp_path / "store", rows, "float16", chunk_rows=CHUNK)
    first, second = chunk_file(path, "plain", 1), chunk_file(path, "plain", 2)
    first.rename(tmp_path / "aside")
    second.rename(first)
    with pytest.raises(StoreError, match=r"1 of 30 chunks are not stored, the first one at row 200"):
        skillaxes.discover(path, components=3)


def test_damage_of_the_sampled_rows_themselves(tmp_path: Path, rows: np.ndarray) -> None:
    """The read takes sampled rows from memory: their checksum is checked all the same."""
    path = write_store(tmp_path / "store", rows, "float16", chunk_rows=CHUNK)
    _flip(chunk_file(path, "plain", 3), 5 * D * 2)  # row 305
    reader = Reader(open_store(path), 0, N)
    reader.rows(300, 332, torch.empty((32, D), dtype=torch.float16))
    with pytest.raises(StoreError, match="rows 300 to 399 fail their checksum"):
        all_rows(reader)


def test_checksums_are_paid_once(tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_store(tmp_path / "store", rows, "float16", chunk_rows=CHUNK)
    calls = []
    monkeypatch.setattr(ChunkChecks, "verify", lambda self, start, stop, target: calls.append(start))
    stream = PanelStream(open_store(path), panel_rows=256, device=torch.device("cpu"))
    for _ in range(3):
        for _ in stream.read():
            pass
    assert calls == list(range(0, N, CHUNK))


def test_large_chunks_come_in_parts(tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk above the unit is fetched in equal parts; checksums run over them, the ragged end included."""
    monkeypatch.setattr(units, "FETCH_BYTES", 64 * D * 2)
    store = open_store(write_store(tmp_path / "store", rows, "float16", chunk_rows=512))
    assert fetch_rows(store) == 64
    checked = []
    original = ChunkChecks.verify

    def watched(self: ChunkChecks, start: int, stop: int, target: torch.Tensor) -> None:
        checked.append((start, stop))
        original(self, start, stop, target)

    monkeypatch.setattr(ChunkChecks, "verify", watched)
    np.testing.assert_array_equal(all_rows(Reader(store, 0, N)), rows)
    assert checked[0] == (0, 64) and checked[-1][1] == N
    _flip(tmp_path / "store" / "c" / "5" / "0", 100)
    with pytest.raises(StoreError, match="rows 2,560 to 2,999 fail their checksum"):
        all_rows(Reader(open_store(tmp_path / "store"), 0, N))
    whole = Reader(open_store(tmp_path / "store"), 2560 + 64, N)
    all_rows(whole)  # begins inside the chunk: its first part belongs to another process, which checks
