"""Law: what is appended is read back, bit for bit, in the bytes that zarr itself would have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.errors import StoreError, UsageError
from skillaxes.store import create_store, open_store, open_writer
from skillaxes.store.dtypes import DTYPES, convert, holder

ENGINE = str(Path(__file__).resolve().parents[2] / "engine")


def made(n_rows: int, width: int, dtype: str) -> np.ndarray:
    values = np.random.default_rng(n_rows * width).standard_normal((n_rows, width)).astype(np.float32)
    return convert(values, "float32", dtype)


def as_given(values: np.ndarray, dtype: str) -> Any:
    return torch.from_numpy(values).view(torch.bfloat16) if dtype == "bfloat16" else values


@settings(max_examples=60, deadline=None)
@given(
    n_rows=st.integers(1, 90),
    width=st.integers(1, 7),
    dtype=st.sampled_from(DTYPES),
    chunk_rows=st.none() | st.integers(1, 40),
    per_shard=st.integers(0, 3),
    declared=st.booleans(),
    pieces=st.lists(st.integers(1, 50), min_size=1, max_size=8),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    n_rows: int,
    width: int,
    dtype: str,
    chunk_rows: int | None,
    per_shard: int,
    declared: bool,
    pieces: list[int],
) -> None:
    values = made(n_rows, width, dtype)
    path = tmp_path_factory.mktemp("written") / "s.zarr"
    shard_size = per_shard * (chunk_rows or 90) * width * holder(dtype).itemsize
    with create_store(
        path,
        dtype=dtype,
        n_rows=n_rows if declared else None,
        n_features=width,
        chunk_rows=chunk_rows,
        shard_size=shard_size,
    ) as writer:
        start = 0
        buffer = np.empty((50, width), holder(dtype))  # reused by the caller between appends
        for piece in [*pieces, *([50] * 2)]:
            count = min(piece, n_rows - start)
            if not count:
                break
            buffer[:count] = values[start : start + count]
            writer.append(as_given(buffer[:count], dtype))
            start += count
    store = open_store(path)
    assert (store.shape, store.dtype) == ((n_rows, width), dtype)
    assert (store.shard_shape is not None) == (per_shard > 0)
    assert store.missing_chunks() == [] and store.plain_chunks() is not None
    np.testing.assert_array_equal(store.read_rows(0, n_rows), values)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shard_rows", [None, 32])
@pytest.mark.parametrize("shape", [(103, 12), (103, 3, 4)])
def test_the_bytes_are_those_of_zarr(
    tmp_path: Path, dtype: str, shard_rows: int | None, shape: tuple[int, ...]
) -> None:
    import zarr
    from zarr.codecs import Crc32cCodec

    values = made(103, 12, dtype)
    ours, theirs = tmp_path / "ours.zarr", tmp_path / "theirs.zarr"
    shard_size = 0 if shard_rows is None else shard_rows * 12 * holder(dtype).itemsize
    with create_store(
        ours,
        dtype=dtype,
        n_features=12,
        hidden=4,
        layered=len(shape) == 3,
        n_rows=103,
        chunk_rows=8,
        shard_size=shard_size,
    ) as writer:
        writer.append(values)
    array = zarr.create_array(
        theirs,
        shape=shape,
        dtype=dtype,
        chunks=(8, *shape[1:]),
        shards=None if shard_rows is None else (shard_rows, *shape[1:]),
        compressors=[Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    array[:] = values.reshape(shape)
    files = sorted(str(file.relative_to(theirs)) for file in theirs.rglob("*") if file.is_file())
    assert files == sorted(str(file.relative_to(ours)) for file in ours.rglob("*") if file.is_file())
    for file in files:
        mine, other = (ours / file).read_bytes(), (theirs / file).read_bytes()
        if file == "zarr.json":
            described, expected = json.loads(mine), json.loads(other)
            del described["attributes"], expected["attributes"]
            assert described == expected
        elif shard_rows is None or int(file.split("/")[1]) < 3:
            assert mine == other, file
    # In the last shard zarr also stores the chunks behind the last row; both read the same.
    np.testing.assert_array_equal(zarr.open_array(ours)[:], zarr.open_array(theirs)[:])


def test_attributes_and_ids_travel(tmp_path: Path) -> None:
    known: dict[str, Any] = {
        "layer_ids": [3, 7, 11],
        "hidden": 4,
        "model": "m",
        "revision": "r",
        "hook": "residual stream",
        "pooling": "mean",
        "token_range": [1, 160],
    }
    with create_store(tmp_path / "s", dtype="float16", **known) as writer:
        writer.append(made(20, 12, "float16"), [f"t{row}" for row in range(20)])
        writer.append(torch.zeros(3, 3, 4, dtype=torch.float64), ["a", None, 7])  # type: ignore[list-item]
    store = open_store(tmp_path / "s")
    assert store.attributes.known() == known
    assert store.trace_ids([22, 0, 21, 20]) == ["7", "t0", None, "a"]


def test_layered_rows(tmp_path: Path) -> None:
    values = made(30, 12, "float32")
    with create_store(tmp_path / "s", dtype="float32", layer_ids=[1, 2, 3], hidden=4, layered=True) as writer:
        writer.append(values.reshape(30, 3, 4))
    store = open_store(tmp_path / "s")
    assert store.shape == (30, 3, 4)
    np.testing.assert_array_equal(store.read_rows(0, 30), values)


def test_an_error_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), create_store(tmp_path / "s", dtype="float32", n_features=4) as writer:
        writer.append(np.ones((5, 4), np.float32))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_only_stores_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    with pytest.raises(StoreError, match="is not a zarr array, so it is not overwritten"):
        create_store(tmp_path / "photos", dtype="float32", n_features=4, overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_bad_option_costs_no_old_store(tmp_path: Path) -> None:
    with create_store(tmp_path / "s", dtype="float32", n_features=4) as writer:
        writer.append(np.ones((5, 4), np.float32))
    with pytest.raises(UsageError, match="smaller than a chunk"):
        create_store(tmp_path / "s", dtype="float32", n_features=4, n_rows=64, shard_size=1, overwrite=True)
    assert open_store(tmp_path / "s").n_rows == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8", "n_features": 4}, "dtype is 'int8'; needed: one of float16, bfloat16, float32, float64"),
        ({"dtype": "float32"}, "give n_features, or layer_ids and hidden"),
        ({"dtype": "float32", "n_features": 0}, "n_features is 0; needed: at least 1"),
        ({"dtype": "float32", "n_features": 4, "n_rows": 0}, "n_rows is 0; needed: at least 1"),
        ({"dtype": "float32", "n_features": 4, "layered": True}, "layered=True needs a hidden size"),
        ({"dtype": "float32", "n_features": 4, "n_rows": 9, "chunk_rows": 0}, "chunk_rows is 0; needed: at least 1"),
        ({"dtype": "float32", "n_features": 4, "n_rows": 9, "shard_size": -1}, "shard_size is -1; needed: bytes"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        create_store(tmp_path / "s", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_rows_that_cannot_be(tmp_path: Path) -> None:
    def refused(message: str, *given: Any, dtype: str = "float16", n_rows: int | None = 6) -> None:
        with (
            pytest.raises(StoreError) as caught,
            create_store(tmp_path / "s", dtype=dtype, n_features=4, n_rows=n_rows, overwrite=True) as writer,
        ):
            writer.append(*given)
        assert message in str(caught.value)

    ones = np.ones((6, 4), np.float32)
    refused("rows of shape (6, 3) were appended; needed: (n, 4)", ones[:, :3])
    refused("rows of shape (4,) were appended; needed: (n, 4)", ones[0])
    refused("rows are int64; needed: float16, bfloat16, float32, float64", np.ones((6, 4), np.int64))
    refused("rows are int64", torch.ones(6, 4, dtype=torch.int64))
    refused("7 rows were appended to", np.ones((7, 4), np.float32))
    refused("got 5 rows of 6; it stays unfinished", ones[:5])
    refused("got 0 rows of at least 1", ones[:0], n_rows=None)
    refused("5 ids were given for 6 rows", ones, list("abcde"))
    huge = ones.copy()
    huge[[1, 4]] = 1e5
    refused("rows 1 and 4 hold values too large for float16; needed: a store of dtype bfloat16 or float32", huge)


def test_ids_for_all_or_none(tmp_path: Path) -> None:
    ones = np.ones((2, 4), np.float32)
    for first, second, message in ((["a", "b"], None, "rows without ids"), (None, ["a", "b"], "rows with ids")):
        with (
            pytest.raises(StoreError, match=message),
            create_store(tmp_path / "s", dtype="float32", n_features=4) as writer,
        ):
            writer.append(ones, first)
            writer.append(ones, second)
    path = tmp_path / "p"
    create_store(path, dtype="float32", n_features=4, n_rows=4, chunk_rows=2)
    with open_writer(path, 0, 2) as writer:
        writer.append(ones, ["a", "b"])
    with (
        pytest.raises(StoreError, match=r"some writers of .* gave ids and others none"),
        open_writer(path, 2, 4) as writer,
    ):
        writer.append(ones)


def test_other_dtypes_are_converted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((10, 4))
    for dtype in DTYPES:
        with create_store(tmp_path / dtype, dtype=dtype, n_features=4) as writer:
            writer.append(values[:4])
            writer.append(values[4:6].astype(">f4"))
            writer.append(torch.from_numpy(values[6:]).to(torch.bfloat16)[:, [0, 1, 2, 3]])
        read = open_store(tmp_path / dtype).read_rows(0, 10)
        np.testing.assert_array_equal(read[:4], convert(values[:4], "float64", dtype))
        np.testing.assert_array_equal(read[4:6], convert(values[4:6].astype("f4"), "float32", dtype))
        bits = torch.from_numpy(values[6:]).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(read[6:], convert(bits, "bfloat16", dtype))
