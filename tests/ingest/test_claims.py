"""Law: what a pickle claims costs nothing: damage, lengths and nesting end soon, in an error of ours."""

from __future__ import annotations

import io
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skillaxes.errors import SourceError
from skillaxes.ingest import open_source
from skillaxes.ingest.pickles.arrays import read

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def opcodes(*parts: bytes) -> bytes:
    return b"".join(parts)


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


CLAIMS = [
    b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"xx.",  # BINBYTES8
    b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"xx.",  # BYTEARRAY8
    b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"xx.",  # BINUNICODE8
    b"\x80\x04B" + struct.pack("<I", (1 << 32) - 1) + b"xx.",
    b"\x80\x02\x8b" + struct.pack("<i", -5) + b"xx.",  # LONG4
    b"\x80\x02T" + struct.pack("<i", -5) + b"xx.",
    b"\x80\x04\x95" + struct.pack("<Q", (1 << 64) - 1),
    b"I" + b"9" * 100_000 + b"\n.",
    b"\x80\x02r" + struct.pack("<I", 5) + b".",
    b"\x80\x02j" + struct.pack("<I", 5) + b".",
    b"\x80\x09N.",
    b"Vabc",
    b"S'abc\n.",
    b"",
    b".",
    b"\x80",
    b"tR.",
    b"\x80\x02(.",
    b"\x80\x02Q.",
    b"\x80\x02}K\x01s.",
    b"\x80\x02}(K\x01u.",
    b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
    b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",  # torch's magic number and nothing behind it
    b"PK\x03\x04",
    b"PK\x03\x04" + bytes(100),
]


@pytest.mark.parametrize("content", CLAIMS, ids=range(len(CLAIMS)))
def test_lengths_that_are_merely_claimed(content: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(SourceError):
        read(memoryview(content))
    assert time.perf_counter() - began < 1


def numpy_state(shape: bytes, raw: bytes = b"C\x04abcd") -> bytes:
    """An array of float32 with any shape and bytes."""
    return opcodes(
        b"\x80\x04",
        stack_global("numpy.core.multiarray", "_reconstruct"),
        stack_global("numpy", "ndarray"),
        b"K\x00\x85C\x01b\x87R(K\x01",
        shape,
        stack_global("numpy", "dtype"),
        text("f4"),
        b"\x89\x88\x87R\x89",
        raw,
        b"tb.",
    )


@pytest.mark.parametrize(
    "content",
    [
        numpy_state(b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85"),
        numpy_state(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86"),  # (-1, -1)
        numpy_state(b"G" + struct.pack(">d", 1.0) + b"\x85"),
        numpy_state(b"K\x00\x8a\x09" + (1 << 66).to_bytes(9, "little") + b"\x86"),
        numpy_state(b"K\x02\x85"),
        numpy_state(b"K\x01\x85", b"]"),
        numpy_state(b"K\x01\x85", b"N"),
        numpy_state(b"K\x01\x85", text("abcd")),
        numpy_state(b"(" + b"K\x01" * 40 + b"t"),
    ],
)
def test_arrays_that_cannot_be(content: bytes) -> None:
    with pytest.raises(SourceError):
        read(memoryview(content))


@pytest.mark.parametrize(
    "code", ["O", "|O8", "f4,f4", "(1000000000,1000000000)f4", "V8", "U3", "M8[s]", "nonsense", "x" * 99, "", "f0"]
)
def test_dtypes_that_cannot_be(code: str) -> None:
    content = numpy_state(b"K\x01\x85").replace(text("f4"), text(code))
    with pytest.raises(SourceError):
        read(memoryview(content))


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    """A pickled (2, 3) tensor of ones that says something else about itself."""
    content = pickle.dumps(torch.ones(2, 3), 4)
    head = content[: content.index(b"K\x00K\x02K\x03\x86")]
    rest = content[content.index(b"\x89\x8c\x0bcollections") :]
    begin = head.index(b"\x8c")  # behind protocol and frame; frames are not needed
    return b"\x80\x04" + head[begin:] + offset + size + stride + rest


def test_the_crafted_tensor_is_a_tensor() -> None:
    found = read(memoryview(tensor(b"K\x02K\x03\x86", b"K\x03K\x01\x86")))[""]
    assert not isinstance(found, list) and found.array.tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor(b"K\x02K\x03\x86", b"K\x03K\x01\x86", b"K\x01"), "beyond its storage"),
        (tensor(b"K\x02K\x03\x86", b"K\xffK\x01\x86"), "beyond its storage"),
        (tensor(b"J\x00\x00\x00\x7fJ\x00\x00\x00\x7f\x86", b"K\x00K\x00\x86"), "expanded"),
        (tensor(b"K\x02K\x03\x86", b"J\xfd\xff\xff\xffK\x01\x86"), "of shape"),
        (tensor(b"K\x02K\x03\x86", b"K\x01\x85"), "differ in length"),
        (tensor(b"K\x02K\x03\x86", b"K\x03K\x01\x86", b"J\xff\xff\xff\xff"), "without a storage"),
        (tensor(b"K\x02K\x03\x86", b"K\x03K\x01\x86", b"N"), "without a storage"),
    ],
)
def test_tensors_that_reach_beyond_their_storage(content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(memoryview(content))


def test_nesting_costs_little() -> None:
    doubled = b"\x80\x02]q\x00" + b"".join(
        b"]q" + bytes([n]) + b"(h" + bytes([n - 1]) * 1 + b"h" + bytes([n - 1]) + b"e" for n in range(1, 60)
    )
    itself = b"\x80\x02]q\x00(" + b"h\x00" * 1000 + b"e."
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    hashed = b"\x80\x02}K\x01" + b"q\x00h\x00h\x00\x86" * 40 + b"K\x01s."
    shape = numpy_state(b"K\x01" + b"q\x00h\x00h\x00\x86" * 60)
    for content in (doubled + b".", itself, deep, hashed, shape):
        began = time.perf_counter()
        with pytest.raises(SourceError):
            _only_arrays(read(memoryview(content)))
        assert time.perf_counter() - began < 5


def _only_arrays(found: dict[str, Any]) -> None:
    if not found:
        raise SourceError("nothing in it")


def test_a_zip_that_unpacks_to_more(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(10_000_000))
    with pytest.raises(SourceError, match="is compressed within its file"):
        open_source(path)


def valid_files() -> list[bytes]:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    contents = [pickle.dumps(values, protocol) for protocol in PROTOCOLS]
    contents += [pickle.dumps(torch.from_numpy(values).bfloat16(), protocol) for protocol in (0, 2, 4)]
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save({"a": torch.from_numpy(values), "b": [torch.ones(2)]}, file, _use_new_zipfile_serialization=zipped)
        contents.append(file.getvalue())
    return contents


@pytest.mark.parametrize("number", range(len(valid_files())))
def test_damage_is_an_error_of_ours(number: int) -> None:
    """Every mutation is an array or a SourceError, soon: never another error."""
    content = valid_files()[number]
    generator = np.random.default_rng(number)
    for _ in range(400):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), generator.integers(1, 4)):
            damaged[place] = generator.integers(0, 256)
        cut = generator.integers(0, len(content)) if generator.random() < 0.2 else len(content)
        try:
            found = read(memoryview(bytes(damaged[:cut])))
        except SourceError:
            continue
        for values in found.values():
            for piece in values if isinstance(values, list) else [values]:
                assert piece.array.nbytes <= 10_000_000
