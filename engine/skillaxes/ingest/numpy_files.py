"""``.npy`` and ``.npz``: mapped views, and streams of compressed members (numpy/lib/format.py)."""

from __future__ import annotations

import io
import math
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from skillaxes.errors import SourceError
from skillaxes.ingest.matrix import MappedFile, Matrix, Values, ViewMatrix, native, unusable
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


def read_npy(path: Path) -> dict[str, Matrix]:
    """The array of an ``.npy``, as a view of the mapped file."""
    mapped = MappedFile(path)
    return {"": _npy_view(mapped.view, mapped)}


@dataclass(frozen=True)
class StreamMatrix:
    """A matrix in a stream that cannot be sought: a compressed member of an ``.npz``."""

    shape: tuple[int, ...]
    numbers: np.dtype
    fortran: bool
    open: Callable[[], IO[bytes]]  # positioned behind the header

    @property
    def dtype(self) -> str:
        return self.numbers.newbyteorder("=").name

    @property
    def bounded(self) -> bool:
        return not self.fortran

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        columns = math.prod(self.shape[1:])
        with unzipping(), self.open() as stream:
            if self.fortran:  # its first row is complete only when all of it was read
                whole = self._read(stream, self.shape[0] * columns).reshape(self.shape, order="F")
                for start in range(0, self.shape[0], rows):
                    block = whole[start : start + rows]
                    yield native(block).reshape(len(block), columns)
                return
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                yield native(self._read(stream, count * columns).reshape(count, columns))

    def _read(self, stream: IO[bytes], count: int) -> np.ndarray:
        values = np.empty(count, dtype=self.numbers)
        buffer = values.view(np.uint8).data
        filled = 0
        while filled < len(buffer):
            piece = stream.read(min(1 << 20, len(buffer) - filled))
            if not piece:
                raise SourceError("the array is cut off; the file is damaged")
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        return values


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


def read_npz(path: Path) -> dict[str, Matrix]:
    """The arrays of an ``.npz`` by name: views of the mapped file, or streams where they are compressed."""
    mapped = MappedFile(path)
    arrays: dict[str, Matrix] = {}
    for name, member in members(mapped.view).items():
        if name.endswith(".npy"):
            label = name.removesuffix(".npy")
            arrays[label] = _npy_stream(member) if member.compressed else _npy_view(member.stored(), mapped)
    return arrays
