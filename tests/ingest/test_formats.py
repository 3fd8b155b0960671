"""Law: whatever file numpy, torch, safetensors or arrow write, the store holds its rows bit for bit."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.ingest import ingest, open_source
from skillaxes.ingest.matrix import Values
from skillaxes.ingest.pickles.arrays import read
from skillaxes.store import open_store
from skillaxes.store.dtypes import DTYPES, convert

N_ROWS, WIDTH = 203, 24


def tensor_of(dtype: str, shape: tuple[int, ...] = (N_ROWS, WIDTH)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(getattr(torch, dtype))


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    flat = tensor.reshape(len(tensor), -1).contiguous()
    return flat.view(torch.int16).numpy().view(np.uint16) if flat.dtype == torch.bfloat16 else flat.numpy()


def write(path: Path, tensor: torch.Tensor, kind: str) -> Path:
    """The tensor as a file, in one of many ways."""
    file = path / f"x.{kind.partition(' ')[0]}"
    if kind.startswith("pkl"):
        protocol = int(kind[-1])
        content = tensor if "tensor" in kind else tensor.numpy()
        file.write_bytes(pickle.dumps(content, protocol))
    elif kind.startswith("pt"):
        torch.save(tensor, file, _use_new_zipfile_serialization=kind != "pt old")
    elif kind == "npy":
        np.save(file, tensor.numpy())
    elif kind == "npy fortran":
        np.save(file, np.asfortranarray(tensor.numpy()))
    elif kind == "npy big-endian":
        values = tensor.numpy()
        np.save(file, values.astype(values.dtype.newbyteorder(">")))
    elif kind == "npz":
        np.savez(file, acts=tensor.numpy(), other=np.arange(3))
    elif kind == "npz compressed":
        np.savez_compressed(file, acts=tensor.numpy())
    elif kind == "npz compressed fortran":
        np.savez_compressed(file, acts=np.asfortranarray(tensor.numpy()))
    elif kind == "safetensors":
        from safetensors.torch import save_file

        save_file({"acts": tensor, "count": torch.arange(3)}, file, {"model": "m"})
    return file


EVERY = ["pkl tensor 0", "pkl tensor 2", "pkl tensor 4", "pkl tensor 5", "pt", "pt old", "safetensors"]
NUMPY = [f"pkl array {protocol}" for protocol in range(6)] + [
    "npy",
    "npy fortran",
    "npy big-endian",
    "npz",
    "npz compressed",
    "npz compressed fortran",
]


# numpy has no bfloat16
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, dtype) for kind in EVERY + NUMPY for dtype in DTYPES if kind in EVERY or dtype != "bfloat16"],
)
def test_two_dimensions(tmp_path: Path, kind: str, dtype: str) -> None:
    tensor = tensor_of(dtype)
    summary = ingest(write(tmp_path, tensor, kind), tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert (store.shape, store.dtype) == ((N_ROWS, WIDTH), dtype) == (summary.shape, summary.dtype)
    np.testing.assert_array_equal(store.read_rows(0, N_ROWS), bits_of(tensor))
    assert store.plain_chunks() is not None and store.missing_chunks() == []
    assert summary.bounded == (kind != "npz compressed fortran")


@pytest.mark.parametrize("kind", ["pkl tensor 4", "pkl array 5", "pt", "npy", "npy fortran", "npz", "safetensors"])
def test_three_dimensions_stay(tmp_path: Path, kind: str) -> None:
    tensor = tensor_of("float16", (N_ROWS, 3, 8))
    ingest(write(tmp_path, tensor, kind), tmp_path / "s.zarr", layer_ids=[3, 7, 11])
    store = open_store(tmp_path / "s.zarr")
    assert store.shape == (N_ROWS, 3, 8) and store.attributes.hidden == 8
    np.testing.assert_array_equal(store.read_rows(0, N_ROWS), bits_of(tensor))
    flat = write(tmp_path, tensor.reshape(N_ROWS, 24), "npy")
    ingest(flat, tmp_path / "flat.zarr")
    assert open_store(tmp_path / "flat.zarr").fingerprint() == store.fingerprint()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), old=st.booleans(), protocol=st.integers(0, 5))
def test_views_of_tensors(data: st.DataObject, dtype: str, old: bool, protocol: int) -> None:
    """Slices, steps, transposes: any strides over one storage, by pickle and by torch.save."""
    base = tensor_of(dtype, (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))))
    if data.draw(st.booleans()):
        base = base.T
    start = data.draw(st.integers(0, base.shape[0] - 1))
    view = base[start :: data.draw(st.integers(1, 3)), :: data.draw(st.integers(1, 3))]
    saved = io.BytesIO()
    torch.save(view, saved, _use_new_zipfile_serialization=not old)
    for content in (saved.getvalue(), pickle.dumps(view, protocol)):
        found = read(memoryview(content))[""]
        assert isinstance(found, Values) and found.dtype == dtype
        np.testing.assert_array_equal(np.ascontiguousarray(found.array), bits_of(view))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["<f2", ">f4", "<f8", ">f2"]), protocol=st.integers(0, 5))
def test_views_of_arrays(data: st.DataObject, dtype: str, protocol: int) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    array = array.transpose(data.draw(st.permutations(range(len(shape)))))
    array = array[:: data.draw(st.integers(1, 2))]
    found = read(memoryview(pickle.dumps(array, protocol)))[""]
    assert isinstance(found, Values) and found.dtype == array.dtype.newbyteorder("=").name
    np.testing.assert_array_equal(found.array, array)


def test_what_people_wrap_around_a_matrix(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    tensor = torch.from_numpy(values)
    wrapped: dict[str, Any] = {
        "list of rows": list(values),
        "tuple of tensors": tuple(tensor),
        "list of batches": [values[:2], values[2:3], values[3:]],
        "list of tensor batches": [tensor[:4], tensor[4:]],
        "dict": {"acts": values, "ids": np.arange(6), "note": "hello", "loss": np.float32(3), "n": 3},
        "deep": {"step": {"acts": tensor}, "shape": tensor.shape, "device": tensor.device, "none": None},
        "parameter": torch.nn.Parameter(tensor),
        "requires grad": tensor.clone().requires_grad_(),
    }
    for name, content in wrapped.items():
        for protocol in range(6):
            (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
            ingest(tmp_path / "x.pkl", tmp_path / "s.zarr", overwrite=True)
            np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read_rows(0, 6), values, err_msg=name)
        for new in (True, False):
            if name in ("dict", "deep", "list of rows", "list of batches"):
                continue  # numpy within torch.save goes by other names
            torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
            ingest(tmp_path / "x.pt", tmp_path / "s.zarr", overwrite=True)
            np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read_rows(0, 6), values, err_msg=name)


def test_a_tensor_that_lived_on_a_gpu(tmp_path: Path) -> None:
    """Only its location differs, and that does not matter here."""
    tensor = tensor_of("float16")
    for old in (False, True):
        file = io.BytesIO()
        torch.save(tensor, file, _use_new_zipfile_serialization=not old)
        content = file.getvalue()
        if old:
            content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            content = content.replace(b"ctorch\nHalf", b"ctorch.cuda\nHalf")
            (tmp_path / "x.pt").write_bytes(content)
            with pytest.raises((RuntimeError, AssertionError)):  # torch itself wants the GPU
                torch.load(tmp_path / "x.pt", weights_only=True)
            ingest(tmp_path / "x.pt", tmp_path / "s.zarr", overwrite=True)
            np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read_rows(0, N_ROWS), bits_of(tensor))
    raw = pickle.dumps(tensor, 4)
    moved = raw.replace(b"X\x03\x00\x00\x00cpu", b"X\x03\x00\x00\x00gpu")
    found = read(memoryview(moved))[""]
    assert isinstance(found, Values)
    np.testing.assert_array_equal(found.array, tensor.numpy())


def test_pickles_of_python_2(tmp_path: Path) -> None:
    """Strings of Python 2 carry the bytes there."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = values.tobytes()
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01K\x02K\x03\x86"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)])
        + raw
        + b"tb."
    )
    expected = pickle.loads(content, encoding="bytes")
    found = read(memoryview(content))[""]
    assert isinstance(found, Values)
    np.testing.assert_array_equal(found.array, expected)
    assert expected.tolist() == values.tolist()


def test_bfloat16_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.random.default_rng(0).standard_normal((5, 3)).astype(ml_dtypes.bfloat16)
    for protocol in range(6):
        found = read(memoryview(pickle.dumps(values, protocol)))[""]
        assert isinstance(found, Values) and found.dtype == "bfloat16"
        np.testing.assert_array_equal(found.array, values.view(np.uint16))


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_parquet(tmp_path: Path, kind: str, dtype: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = np.random.default_rng(0).standard_normal((N_ROWS, WIDTH)).astype(dtype)
    flat = pa.array(values.ravel())
    offsets = np.arange(0, values.size + 1, WIDTH)
    column = {
        "fixed": lambda: pa.FixedSizeListArray.from_arrays(flat, WIDTH),
        "list": lambda: pa.ListArray.from_arrays(offsets.astype(np.int32), flat),
        "large_list": lambda: pa.LargeListArray.from_arrays(offsets, flat),
    }[kind]()
    table = pa.table({"id": [f"t{row}" for row in range(N_ROWS)], "acts": column, "n": list(range(N_ROWS))})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=50)
    summary = ingest(tmp_path / "x.parquet", tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert store.dtype == dtype and summary.key == "acts" and summary.has_trace_ids
    np.testing.assert_array_equal(store.read_rows(0, N_ROWS), values)
    assert store.trace_ids([0, 202]) == ["t0", "t202"]
    ingest(tmp_path / "x.parquet", tmp_path / "n.zarr", id_field="n")
    assert open_store(tmp_path / "n.zarr").trace_ids([5]) == ["5"]


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_another_dtype(tmp_path: Path, dtype: str, to: str) -> None:
    tensor = tensor_of(dtype)
    summary = ingest(write(tmp_path, tensor, "pt"), tmp_path / "s.zarr", dtype=to)
    assert (summary.source_dtype, summary.dtype) == (dtype, to)
    expected = convert(bits_of(tensor), dtype, to)
    np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read_rows(0, N_ROWS), expected)


@settings(max_examples=30, deadline=None)
@given(n_rows=st.integers(1, 60), block=st.integers(1, 70), pieces=st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_blocks_of_a_list_of_batches(n_rows: int, block: int, pieces: list[int]) -> None:
    from skillaxes.ingest.matrix import ViewMatrix

    batches = [np.random.default_rng(size).standard_normal((size, 3)) for size in pieces]
    matrix = ViewMatrix.of([Values.of(batch) for batch in batches], "x", lambda: None)
    whole = np.concatenate(batches)
    found = list(matrix.blocks(block))
    assert matrix.shape == whole.shape
    assert all(len(piece) <= block for piece in found)
    np.testing.assert_array_equal(np.concatenate(found), whole)


def test_a_key_chooses(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones((3, 2), np.float32), b=np.zeros((4, 5), np.float64))
    ingest(tmp_path / "x.npz", tmp_path / "s.zarr", key="b")
    assert open_store(tmp_path / "s.zarr").shape == (4, 5)
    assert open_source(tmp_path / "x.npz", "a").matrix.shape == (3, 2)
