"""``.npy`` and ``.npz`` as named matrices."""

from __future__ import annotations

import io
import math
import tokenize
from typing import IO

import numpy as np

from skillaxes.errors import SourceError
from skillaxes.ingest.matrix import MappedFile, Matrix, StreamMatrix, ViewMatrix, unusable
from skillaxes.ingest.pickles.rebuild import Values
from skillaxes.ingest.zip_members import Member, ViewFile, members, unzipping

_NUMBERS = "fiubc"  # numpy's kinds of numbers


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
