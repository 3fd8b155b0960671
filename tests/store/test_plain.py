"""Law: bytes at ``plain_chunks().locate`` are the rows that zarr reads, and a layout without such bytes is declined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.errors import StoreError
from skillaxes.store import Store, crc32c, open_store
from skillaxes.store.dtypes import holder

Foreign = Callable[..., Path]


def by_hand(store: Store) -> np.ndarray:
    """All rows by the plain layout; fails where there is none, so that the test proves it was taken."""
    plain = store.plain_chunks()
    assert plain is not None, store.plain_reason
    pieces = []
    for chunk in range(plain.n_chunks):
        place = plain.locate(chunk)
        with open(place.path, "rb") as file:
            file.seek(place.offset)
            raw = file.read(place.n_bytes)
        assert len(raw) == plain.chunk_bytes  # the last chunk too
        assert (place.crc32c is not None) == plain.checked
        if place.crc32c is not None:
            assert crc32c(raw) == place.crc32c
        values = np.frombuffer(raw, holder(store.dtype)).reshape(plain.chunk_rows, store.n_features)
        pieces.append(values[: len(plain.rows(chunk))])
    return np.concatenate(pieces)


def layouts() -> dict[str, dict[str, Any]]:
    from zarr.codecs import Crc32cCodec
    from zarr.codecs.sharding import ShardingCodec

    crc = [Crc32cCodec()]
    at_start = ShardingCodec(chunk_shape=(8, 12), index_location="start")
    return {
        "chunks": {"chunks": (16, 12), "compressors": None},
        "one chunk larger than the array": {"chunks": (200, 12), "compressors": None},
        "one row a chunk": {"chunks": (1, 12), "compressors": None},
        "crc32c": {"chunks": (16, 12), "compressors": crc},
        "shards": {"chunks": (8, 12), "shards": (32, 12), "compressors": None},
        "shards with crc32c": {"chunks": (8, 12), "shards": (32, 12), "compressors": crc},
        "index at the start": {"chunks": (32, 12), "serializer": at_start, "compressors": None},
        "dots in the keys": {
            "chunks": (16, 12),
            "compressors": None,
            "chunk_key_encoding": {"name": "default", "separator": "."},
        },
        "zarr v2 keys": {
            "chunks": (16, 12),
            "compressors": None,
            "chunk_key_encoding": {"name": "v2", "separator": "."},
        },
        "zarr v2": {"chunks": (16, 12), "compressors": None, "zarr_format": 2},
    }


@pytest.mark.parametrize("name", list(layouts()))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_plain_is_what_zarr_reads(foreign: Foreign, rows: np.ndarray, name: str, dtype: str) -> None:
    store = open_store(foreign(rows.astype(dtype), **layouts()[name]))
    np.testing.assert_array_equal(by_hand(store), store.read_rows(0, 103))
    np.testing.assert_array_equal(store.read_rows(0, 103), rows)


@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.integers(1, 70),
    width=st.integers(1, 9),
    chunk=st.integers(1, 30),
    per_shard=st.integers(0, 4),
    checked=st.booleans(),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
)
def test_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    n_rows: int,
    width: int,
    chunk: int,
    per_shard: int,
    checked: bool,
    dtype: str,
) -> None:
    import zarr
    from zarr.codecs import Crc32cCodec

    values = np.random.default_rng(n_rows).standard_normal((n_rows, width)).astype(dtype)
    path = tmp_path_factory.mktemp("plain") / "a.zarr"
    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=dtype,
        chunks=(chunk, width),
        shards=(chunk * per_shard, width) if per_shard else None,
        compressors=[Crc32cCodec()] if checked else None,
        config={"write_empty_chunks": True},
    )
    array[:] = values
    store = open_store(path)
    np.testing.assert_array_equal(by_hand(store), values)
    np.testing.assert_array_equal(store.read_rows(0, n_rows), values)


def test_three_dimensions(foreign: Foreign, rows: np.ndarray) -> None:
    store = open_store(foreign(rows.reshape(103, 3, 4), chunks=(16, 3, 4), compressors=None))
    np.testing.assert_array_equal(by_hand(store), rows)


def declined() -> dict[str, tuple[dict[str, Any], str]]:
    from zarr.codecs import BloscCodec, BytesCodec, TransposeCodec, ZstdCodec

    return {
        "zstd": ({"chunks": (16, 12), "compressors": [ZstdCodec()]}, "encoded by bytes, zstd"),
        "blosc": ({"chunks": (16, 12), "compressors": [BloscCodec()]}, "encoded by bytes, blosc"),
        "zstd in shards": ({"chunks": (8, 12), "shards": (32, 12)}, "encoded by bytes, zstd"),
        "split columns": ({"chunks": (16, 5), "compressors": None}, "not as wide as the rows"),
        "shards that split columns": (
            {"chunks": (8, 4), "shards": (32, 8), "compressors": None},
            "not as wide as the rows",
        ),
        "chunks wider than the rows": ({"chunks": (16, 15), "compressors": None}, "not as wide as the rows"),
        "big-endian": (
            {"chunks": (16, 12), "compressors": None, "serializer": BytesCodec(endian="big")},
            "values are big-endian",
        ),
        "transposed": (
            {"chunks": (16, 12), "compressors": None, "filters": [TransposeCodec(order=(1, 0))]},
            "encoded by transpose",
        ),
        "zarr v2, big-endian": (
            {"chunks": (16, 12), "compressors": None, "zarr_format": 2, "dtype": ">f2"},
            "values are big-endian",
        ),
        "zarr v2, Fortran order": (
            {"chunks": (16, 12), "compressors": None, "zarr_format": 2, "order": "F"},
            "Fortran order",
        ),
        "zarr v2, compressed": ({"chunks": (16, 12), "zarr_format": 2}, "encoded by"),
    }


@pytest.mark.parametrize("name", list(declined()))
def test_what_is_not_plain_is_declined_and_still_read(foreign: Foreign, rows: np.ndarray, name: str) -> None:
    options, reason = declined()[name]
    store = open_store(foreign(rows, **options))
    assert store.plain_chunks() is None
    assert reason in store.plain_reason
    np.testing.assert_array_equal(store.read_rows(0, 103), rows)
    np.testing.assert_array_equal(store.read_rows(17, 18), rows[17:18])
    out = np.empty((40, 12), np.float16)
    assert store.read_rows(30, 70, out) is out
    np.testing.assert_array_equal(out, rows[30:70])


def test_a_chunk_file_that_was_cut_off(foreign: Foreign, rows: np.ndarray) -> None:
    path = foreign(rows, chunks=(16, 12), compressors=None)
    chunk = path / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    plain = open_store(path).plain_chunks()
    assert plain is not None
    with pytest.raises(StoreError, match=r"has 383 bytes, but chunk 1 needs 384; it was cut off"):
        plain.locate(1)


def test_a_shard_whose_index_is_damaged(foreign: Foreign, rows: np.ndarray) -> None:
    path = foreign(rows, chunks=(8, 12), shards=(32, 12), compressors=None)
    shard = path / "c" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[-20] ^= 1
    shard.write_bytes(content)
    plain = open_store(path).plain_chunks()
    assert plain is not None
    with pytest.raises(StoreError, match=r"the index of shard c/0/0 fails its crc32c"):
        plain.locate(0)
    shard.write_bytes(content[:30])
    plain = open_store(path).plain_chunks()
    assert plain is not None
    with pytest.raises(StoreError, match="shorter than its index"):
        plain.locate(0)
