"""Law: a chunk that is not stored is found and never read as zeros, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skillaxes.errors import StoreError
from skillaxes.store import open_store

Foreign = Callable[..., Path]


def expect_missing(path: Path, chunks: list[int], rows: range) -> None:
    store = open_store(path)
    assert store.missing_chunks() == chunks
    with pytest.raises(StoreError, match=rf"chunk {chunks[0]} \(rows {rows[0]} to {rows[-1]}\) of .* is not stored"):
        store.read_rows(rows[0], rows[0] + 1)
    with pytest.raises(StoreError, match="not stored"):
        store.read_rows(0, store.n_rows)
    plain = store.plain_chunks()
    if plain is not None:
        with pytest.raises(StoreError, match=rf"chunk {chunks[0]} \(rows {rows[0]} to {rows[-1]}\) is not stored in"):
            plain.locate(chunks[0])


def test_nothing_is_missing(foreign: Foreign, rows: np.ndarray) -> None:
    assert open_store(foreign(rows, chunks=(16, 12))).missing_chunks() == []
    assert open_store(foreign(rows, "s", chunks=(8, 12), shards=(32, 12))).missing_chunks() == []


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_a_lost_file(foreign: Foreign, rows: np.ndarray, compressors: str | None) -> None:
    path = foreign(rows, chunks=(16, 12), compressors=compressors)
    (path / "c" / "6" / "0").unlink()
    expect_missing(path, [6], range(96, 103))
    np.testing.assert_array_equal(open_store(path).read_rows(0, 96), rows[:96])


def test_a_lost_column_of_split_chunks_costs_its_rows(foreign: Foreign, rows: np.ndarray) -> None:
    path = foreign(rows, chunks=(16, 5))
    (path / "c" / "3" / "2").unlink()
    expect_missing(path, [3], range(48, 64))


def test_a_lost_shard(foreign: Foreign, rows: np.ndarray) -> None:
    path = foreign(rows, chunks=(8, 12), shards=(32, 12), compressors=None)
    (path / "c" / "3" / "0").unlink()
    expect_missing(path, [12], range(96, 103))  # the inner chunks behind the last row are not missed


def test_an_inner_chunk_that_a_shard_does_not_hold(foreign: Foreign, rows: np.ndarray) -> None:
    values = rows.copy()
    values[40:48] = 0  # exactly one inner chunk of zeros, which zarr leaves out by default
    for name, compressors in (("plain", None), ("zstd", "auto")):
        path = foreign(values, name, chunks=(8, 12), shards=(32, 12), compressors=compressors, write_empty_chunks=False)
        expect_missing(path, [5], range(40, 48))


def test_split_inner_chunks(foreign: Foreign, rows: np.ndarray) -> None:
    values = rows.copy()
    values[16:24, 4:8] = 0
    path = foreign(values, chunks=(8, 4), shards=(32, 12), write_empty_chunks=False)
    expect_missing(path, [2], range(16, 24))


def test_zarr_v2(foreign: Foreign, rows: np.ndarray) -> None:
    path = foreign(rows, chunks=(16, 12), zarr_format=2)
    (path / "1.0").unlink()
    expect_missing(path, [1], range(16, 32))
