"""``.npy``, ``.npz`` and ``.safetensors`` as named matrices."""

from __future__ import annotations

import io
import json
import math
import tokenize
from typing import IO, Any

import numpy as np

from skillaxes.errors import SourceError
from skillaxes.ingest.archive import Member, ViewFile, members, unzipping
from skillaxes.ingest.matrix import MappedFile, Matrix, StreamMatrix, ViewMatrix, unusable
from skillaxes.ingest.rebuild import Values

_SAFETENSORS = {
    "F16": ("<f2", "float16"),
    "BF16": ("<u2", "bfloat16"),
    "F32": ("<f4", "float32"),
    "F64": ("<f8", "float64"),
    "I8": ("|i1", "int8"),
    "U8": ("|u1", "uint8"),
    "I16": ("<i2", "int16"),
    "U16": ("<u2", "uint16"),
    "I32": ("<i4", "int32"),
    "U32": ("<u4", "uint32"),
    "I64": ("<i8", "int64"),
    "U64": ("<u8", "uint64"),
    "BOOL": ("|b1", "bool"),
}
_NUMBERS = "fiubc"  # numpy's kinds of numbers
_LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, column-major, dtype) of an ``.npy``; the stream then stands at its values."""
    try:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"version {version} of the format holds structured values")
        shape, fortran, dtype = readers[version](stream)
    except (ValueError, OSError, SyntaxError, EOFError, RecursionError, tokenize.TokenError) as error:
        raise SourceError(f"the .npy header cannot be read: {' '.join(str(error).split())}") from error
    return tuple(shape), fortran, dtype


def _npy_view(data: memoryview, mapped: MappedFile) -> Matrix:
    stream = io.BufferedReader(ViewFile(data))
    shape, fortran, dtype = _npy_header(stream)
    if dtype.kind not in _NUMBERS:
        return unusable(shape, "object" if dtype.hasobject else dtype.name)
    raw = data[stream.tell() :]
    size = math.prod(shape) * dtype.itemsize
    if len(raw) < size:
        raise SourceError(f"the array of shape {shape} is cut off: {len(raw)} of {size} bytes are there")
    flat = np.frombuffer(raw[:size], dtype=dtype) if size else np.empty(0, dtype=dtype)
    return ViewMatrix.of(Values.of(flat.reshape(shape, order="F" if fortran else "C")), "", mapped.release)


def read_npy(mapped: MappedFile) -> dict[str, Matrix]:
    """The array of an ``.npy``, as a view."""
    return {"": _npy_view(mapped.view, mapped)}


def _npy_stream(member: Member) -> Matrix:
    with unzipping(), member.open() as stream:
        shape, fortran, dtype = _npy_header(stream)
    if dtype.kind not in _NUMBERS:
        return unusable(shape, "object" if dtype.hasobject else dtype.name)

    def behind_header() -> IO[bytes]:
        stream = member.open()
        _npy_header(stream)
        return stream

    return StreamMatrix(shape, dtype, fortran, behind_header)


def read_npz(mapped: MappedFile) -> dict[str, Matrix]:
    """The arrays of an ``.npz``: views, or streams where they are compressed."""
    arrays: dict[str, Matrix] = {}
    for name, member in members(mapped.view).items():
        if name.endswith(".npy"):
            label = name.removesuffix(".npy")
            arrays[label] = _npy_stream(member) if member.compressed else _npy_view(member.stored(), mapped)
    return arrays


def read_safetensors(mapped: MappedFile) -> dict[str, Matrix]:
    """The tensors of a ``.safetensors`` (8 bytes of length, a JSON header, the values), as views."""
    data = mapped.view
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_LARGEST_HEADER, len(data) - 8):
        raise SourceError("the file is no .safetensors, or cut off within its header")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _tensor(name, entry, data[8 + length :], mapped) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"the .safetensors header cannot be read: {' '.join(str(error).split())}") from error


def _tensor(name: str, entry: dict[str, Any], values: memoryview, mapped: MappedFile) -> Matrix:
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    code = str(entry["dtype"])
    if not all(type(part) is int and part >= 0 for part in (*shape, begin, end)):
        raise SourceError(f"{name} has a shape or place that are no numbers; the file is damaged")
    if code not in _SAFETENSORS:
        return unusable(shape, code)
    dtype, label = _SAFETENSORS[code]
    if end - begin != math.prod(shape) * np.dtype(dtype).itemsize or end > len(values):
        raise SourceError(f"{name} of shape {shape} is cut off or overlong; the file is damaged")
    flat = np.frombuffer(values[begin:end], dtype=dtype) if end > begin else np.empty(0, dtype=dtype)
    return ViewMatrix.of(Values(flat.reshape(shape), label), name, mapped.release)
