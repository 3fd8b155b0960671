"""Law: a file that cannot be ingested is refused in one line that says why, and nothing is written."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skillaxes.errors import SkillaxesError, SourceError, StoreError, UsageError
from skillaxes.ingest import ingest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32))
    return tmp_path / "x.npy"


def refusal(source: Path, kind: type[SkillaxesError] = SourceError, **options: Any) -> str:
    """The message; nothing must be left, and an old store must be untouched."""
    folder = source.parent
    target = options.pop("store", folder / "new.zarr")
    before = sorted(str(path) for path in folder.rglob("*"))
    with pytest.raises(kind) as caught:
        ingest(source, target, **options)
    assert sorted(str(path) for path in folder.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 2
    return message


def save(path: Path, content: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, content, allow_pickle=False)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".pt":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def test_no_such_source(tmp_path: Path, source: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "none.npy")
    (tmp_path / "folder").mkdir()
    assert "is a folder; needed: a file" in refusal(tmp_path / "folder")
    (tmp_path / "x.csv").write_text("1,2")
    assert "is of an unknown kind (.csv); needed: one of .pkl" in refusal(tmp_path / "x.csv")
    (tmp_path / "empty.npy").touch()
    assert "is empty" in refusal(tmp_path / "empty.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet", ".pt", ".pkl"])
@pytest.mark.parametrize("content", [b"not what it says", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04", bytes(4000)])
def test_damaged_sources(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    assert str(path) in refusal(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet", ".pt", ".pkl"])
def test_sources_that_were_cut_off(tmp_path: Path, suffix: str) -> None:
    values = np.ones((50, 8), np.float32)
    path = tmp_path / f"x{suffix}"
    if suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"x": values}, path)
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"x": list(values)}), path)
    else:
        save(path, {"x": values} if suffix == ".npz" else torch.from_numpy(values) if suffix == ".pt" else values)
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        assert str(path) in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones((3, 4), np.int64), "holds int64; needed: float16, bfloat16, float32, float64; convert it first"),
        (np.ones((3, 4), bool), "holds bool"),
        (np.ones((3, 4), np.complex64), "holds complex64"),
        (np.ones(4, np.float32), "has shape (4,); needed: (rows, features) or (rows, layers, hidden)"),
        (np.ones((2, 2, 2, 2), np.float32), "has shape (2, 2, 2, 2)"),
        (np.ones((0, 4), np.float32), "there is nothing in it"),
        (np.ones((4, 0), np.float32), "there is nothing in it"),
        (np.array([["a", "b"]]), "needed: "),
        (np.ones(3, dtype=[("a", "f4"), ("b", "f4")]), "needed: "),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".pkl"])
def test_arrays_that_are_no_rows(tmp_path: Path, content: np.ndarray, message: str, suffix: str) -> None:
    found = refusal(save(tmp_path / f"x{suffix}", content))
    assert message in found


def test_several_arrays_or_none(tmp_path: Path) -> None:
    both = save(tmp_path / "x.npz", {"a": np.ones((3, 4)), "b": np.ones((5, 4)), "c": np.arange(3)})
    message = refusal(both)
    assert "holds several arrays; name one with --key: a float64 (3, 4), b float64 (5, 4), c int64 (3,)" in message
    assert "has no array 'z'; it holds a float64 (3, 4)" in refusal(both, key="z")
    assert "x.npz, c, holds int64" in refusal(both, key="c")
    assert "holds no matrix of float16" in refusal(save(tmp_path / "y.npz", {"c": np.arange(3), "d": np.arange(4)}))
    assert "holds no array" in refusal(save(tmp_path / "z.pkl", {"a": 1, "b": "text"}))
    assert "holds no array" in refusal(save(tmp_path / "y.pkl", [[1.0, 2.0], [3.0, 4.0]]))
    mixed = save(tmp_path / "m.pkl", [np.ones(3), np.ones(4)])
    assert "item 1 of the list is float64 of shape (4,), item 0 float64 of shape (3,)" in refusal(mixed)


def test_tables_that_are_no_matrix(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(**columns: Any) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        return tmp_path / "x.parquet"

    floats = pa.list_(pa.float32())
    assert "holds no array" in refusal(table(a=[1.0, 2.0]))
    assert "has 3 numbers in row 1 and 2 in row 0" in refusal(table(a=pa.array([[1, 2], [1, 2, 3]], floats)))
    assert "has nothing in row 1" in refusal(table(a=pa.array([[1, 2], None], floats)))
    assert "lacks a number in row 1" in refusal(table(a=pa.array([[1, 2], [1, None]], floats)))
    assert "holds int64" in refusal(table(a=[[1, 2], [3, 4]]))
    assert "holds list<" in refusal(table(a=[[[1.0]], [[2.0]]]))
    two = table(a=pa.array([[1.0]], floats), b=pa.array([[2.0]], floats))
    assert "holds several arrays" in refusal(two)
    assert "has no column 'who'; it has a, b" in refusal(two, key="a", id_field="who")


def test_attributes_that_do_not_fit(source: Path) -> None:
    assert "2 layer_ids x hidden 5 = 10 columns, but a row has 12" in refusal(
        source, StoreError, layer_ids=[1, 2], hidden=5
    )
    assert "names layer 3 twice" in refusal(source, StoreError, layer_ids=[3, 3])
    layered = save(source.parent / "l.npy", np.ones((5, 3, 4), np.float32))
    assert "have 4 columns a layer" in refusal(layered, StoreError, hidden=6)
    assert "have 3" in refusal(layered, StoreError, layer_ids=[1, 2])


def test_options_that_cannot_be(source: Path) -> None:
    assert "dtype is 'int8'" in refusal(source, UsageError, dtype="int8")
    assert "shard_size is -1" in refusal(source, UsageError, shard_size=-1)
    assert "smaller than a chunk" in refusal(source, UsageError, shard_size=1)
    assert "chunk_rows is 0" in refusal(source, UsageError, chunk_rows=0)
    assert "id field 'id' was given without a file" in refusal(source, UsageError, id_field="id")


def test_values_too_large_are_named(tmp_path: Path) -> None:
    values = np.ones((300, 4), np.float32)
    values[[7, 250], 2] = 7e4
    message = refusal(save(tmp_path / "x.npy", values), dtype="float16", chunk_rows=16)
    assert "rows 7 and 250 hold values too large for float16; ingest as bfloat16 or float32" in message
    values = values.astype(np.float64)
    values[3] = 1e300
    assert "row 3 hold values too large for float32; ingest as float64" in refusal(
        save(tmp_path / "x.npy", values), dtype="float32"
    )


def test_ids_that_cannot_be(tmp_path: Path, source: Path) -> None:
    assert "there are 3 trace ids for the 200 rows" in refusal(source, trace_ids=["a", "b", "c"])
    assert "there is no file" in refusal(source, trace_ids=tmp_path / "none.jsonl")
    (tmp_path / "a.jsonl").write_text('{"name": "x"}\n')
    assert "has no trace_id or id in line 1; name the field" in refusal(source, trace_ids=tmp_path / "a.jsonl")
    assert "has no who in line 1" in refusal(source, trace_ids=tmp_path / "a.jsonl", id_field="who")
    (tmp_path / "b.jsonl").write_text("{")
    assert "is damaged" in refusal(source, trace_ids=tmp_path / "b.jsonl")
    (tmp_path / "c.json").write_text("{}")
    assert "is no JSON list" in refusal(source, trace_ids=tmp_path / "c.json")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\x00")
    assert "is no text" in refusal(source, trace_ids=tmp_path / "d.txt")
