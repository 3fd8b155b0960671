"""Matrices in files: their shape and dtype, their rows block by block, and the pick of one among several.

A block is a C-ordered array of shape (n, columns) in native byte order; bfloat16 as its bits in uint16.
"""

from __future__ import annotations

import math
import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

from skillaxes.errors import SourceError
from skillaxes.store.dtypes import DTYPES

_NAMED = 8
_HELD_BYTES = 1 << 20  # of a column-major file at a time: the kernel maps up to eight times that around it


@dataclass(frozen=True)
class Values:
    """A view of an array in a file.

    array : any strides and byte order; bfloat16 as its bits in uint16
    dtype : name of the numbers
    """

    array: np.ndarray
    dtype: str

    @classmethod
    def of(cls, array: np.ndarray) -> Values:
        return cls(array, array.dtype.newbyteorder("=").name)


class MappedFile:
    """A memory-mapped file whose pages can be released.

    Raises
    ------
    SourceError : the file is empty
    """

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                raise SourceError(f"{path} is empty; needed: a file with an array")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.view = memoryview(self._map)

    def release(self) -> None:
        """Release the pages that were read, which would count as memory of this process."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Matrix(Protocol):
    """An array in a file.

    shape : (rows, features) or (rows, layers, hidden) if it can be ingested, else any
    dtype : name of the numbers
    bounded : whether rows are read in bounded memory
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def bounded(self) -> bool: ...
    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Rows in order, at most ``rows`` at a time.

        Raises
        ------
        SourceError : a damaged file, or rows that differ in length
        """
        ...


def native(block: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("="))


@dataclass(frozen=True)
class ViewMatrix:
    """A matrix in a mapped file, in one piece or in several: rows, or batches of rows."""

    pieces: tuple[np.ndarray, ...]  # each (n, ...)
    dtype: str
    release: Callable[[], None] = field(default=lambda: None)
    bounded: bool = True

    @classmethod
    def of(cls, found: Values | list[Values], name: str, release: Callable[[], None]) -> ViewMatrix:
        """One array, or a list of arrays of one kind: vectors become rows, matrices follow each other."""
        if isinstance(found, Values):
            return cls((found.array,), found.dtype, release)
        first = found[0]
        for place, values in enumerate(found):
            skip = 1 if first.array.ndim > 1 else 0
            if values.dtype != first.dtype or values.array.shape[skip:] != first.array.shape[skip:]:
                label = f"{name}: " if name else ""
                raise SourceError(
                    f"{label}item {place} of the list is {values.dtype} of shape {values.array.shape}, item 0 "
                    f"{first.dtype} of shape {first.array.shape}; needed: arrays of one kind, rows or stacks of rows"
                )
        return cls(
            tuple(values.array if values.array.ndim > 1 else values.array[None] for values in found),
            first.dtype,
            release,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        if not self.pieces[0].ndim:
            return ()
        return (sum(len(piece) for piece in self.pieces), *self.pieces[0].shape[1:])

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        first = self.pieces[0]
        columns = math.prod(first.shape[1:])
        by_columns = first.strides[0] < first.strides[-1]
        if by_columns:
            rows *= 2  # taller blocks, or every page of the file would be fetched many times
        ends = list(accumulate(len(piece) for piece in self.pieces))
        for start in range(0, ends[-1], rows):
            stop = min(start + rows, ends[-1])
            parts = []
            place = bisect_right(ends, start)
            at = start
            while at < stop:
                begin = ends[place] - len(self.pieces[place])
                parts.append(self.pieces[place][at - begin : stop - begin])
                at = min(stop, ends[place])
                place += 1
            block = parts[0] if len(parts) == 1 else np.concatenate(parts)
            yield (self._row_major(block) if by_columns else native(block)).reshape(len(block), columns)
            self.release()

    def _row_major(self, block: np.ndarray) -> np.ndarray:
        """A column-major block in C order, some columns at a time, so that few pages of the file are held."""
        values = np.empty(block.shape, dtype=block.dtype.newbyteorder("="))
        at_once = max(1, _HELD_BYTES * block.shape[-1] // max(1, block.nbytes))
        for start in range(0, block.shape[-1], at_once):
            values[..., start : start + at_once] = block[..., start : start + at_once]
            self.release()
        return values


def unusable(shape: tuple[int, ...], dtype: str) -> Matrix:
    """An array that messages can name and that cannot be ingested."""
    return ViewMatrix((np.broadcast_to(np.empty(()), shape),), dtype)


def described(name: str, matrix: Matrix) -> str:
    """Name, dtype and shape, for messages."""
    return f"{name or 'the array'} {matrix.dtype} {matrix.shape}"


def pick_array(arrays: Mapping[str, Matrix], key: str | None, where: Path | str) -> tuple[str, Matrix]:
    """The name and the matrix to ingest: the one named by ``key``, or the only one that can be ingested.

    Raises
    ------
    SourceError : none, several, no such name, or a dtype or shape that no store holds
    """
    if not arrays:
        raise SourceError(f"{where} holds no array; needed: one of shape (rows, features) or (rows, layers, hidden)")
    listed = ", ".join(described(name, matrix) for name, matrix in list(arrays.items())[:_NAMED])
    if len(arrays) > _NAMED:
        listed += f" and {len(arrays) - _NAMED} more"
    if key is not None:
        if key not in arrays:
            raise SourceError(f"{where} has no array {key!r}; it holds {listed}")
        return key, _checked(arrays[key], key, where)
    fitting = [name for name, matrix in arrays.items() if len(matrix.shape) in (2, 3) and matrix.dtype in DTYPES]
    if len(fitting) > 1:
        raise SourceError(f"{where} holds several arrays; name one with --key: {listed}")
    name = fitting[0] if fitting else next(iter(arrays))
    if not fitting and len(arrays) > 1:
        raise SourceError(f"{where} holds no matrix of {', '.join(DTYPES)}; it holds {listed}")
    return name, _checked(arrays[name], name, where)


def _checked(matrix: Matrix, name: str, where: Path | str) -> Matrix:
    label = f"{where}, {name}," if name else f"{where}"
    if matrix.dtype == "object":
        raise SourceError(f"{label} holds Python objects (dtype object), not numbers; nothing of it was unpickled")
    if matrix.dtype not in DTYPES:
        raise SourceError(
            f"{label} holds {matrix.dtype}; needed: {', '.join(DTYPES)}; convert it first, e.g. x.astype('float32')"
        )
    if len(matrix.shape) not in (2, 3):
        raise SourceError(
            f"{label} has shape {matrix.shape}; needed: (rows, features) or (rows, layers, hidden), one row per trace"
        )
    if 0 in matrix.shape:
        raise SourceError(f"{label} has shape {matrix.shape}: there is nothing in it")
    return matrix
