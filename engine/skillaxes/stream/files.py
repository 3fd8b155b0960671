"""Rows of uncompressed chunks as tensors, read or mapped straight from their files."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skillaxes.devices import torch_dtype
from skillaxes.errors import StoreError
from skillaxes.files import read_at

if TYPE_CHECKING:
    from skillaxes.store import Store
    from skillaxes.store.chunks import PlainChunks

FilePath = os.PathLike[str] | str
# On others a page that fails to come is a SIGBUS instead of an error with a name, or each page is a request of its own.
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "overlay"})


def as_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory as numpy sees it; bfloat16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()


def read_exactly(path: FilePath, offset: int, values: np.ndarray) -> None:
    """Fill ``values``, which is contiguous, from ``offset`` of a file on.

    Raises
    ------
    StoreError : there is no such file, or it ends too early
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise StoreError(f"{path}: this chunk is not stored; copy the store again") from None
    try:
        done = read_at(descriptor, values, offset)
    finally:
        os.close(descriptor)
    if done < values.nbytes:
        raise StoreError(f"{path}: ends {values.nbytes - done:,} bytes too early; copy the store again")


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype, function.argtypes = result, arguments
    return function


class _Mapped:
    """A mapped part of a file, with numpy's array interface; unmapped with the last array made of it.

    It calls the C library: the functions of the module mmap hold the interpreter's lock while pages come from disk.
    """

    _map = _function("mmap", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    _unmap = _function("munmap", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    _FAILED = ctypes.c_void_p(-1).value

    def __init__(self, path: FilePath, offset: int, n_bytes: int) -> None:
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        self._mapping: tuple[int, int] | None = None
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if os.fstat(descriptor).st_size < offset + n_bytes:  # pages behind the end would be a SIGBUS
                raise StoreError(f"{path}: ends too early; copy the store again")
            flags, size = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0), offset - start + n_bytes
            address = type(self)._map(None, size, mmap.PROT_READ, flags, descriptor, start)
            if address == self._FAILED:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(path))
        finally:
            os.close(descriptor)
        self._mapping = (address, size)
        # Declared writable, which it is not: torch has no read-only tensors and warns of every such array.
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "typestr": "|u1",
            "shape": (n_bytes,),
            "data": (address + offset - start, False),
        }

    def __del__(self) -> None:
        if self._mapping is not None:
            type(self)._unmap(*self._mapping)


def mapped(path: FilePath, offset: int, n_bytes: int) -> Tensor:
    """Bytes of a file, mapped: uint8 of shape (n_bytes,), read-only, in memory when this returns.

    Raises
    ------
    StoreError : the file ends too early
    """
    return torch.from_numpy(np.asarray(_Mapped(path, offset, n_bytes)))


def can_map(path: FilePath) -> bool:
    """Whether a file or folder lies in a local file system."""
    try:
        return _file_system(os.stat(path).st_dev) in _LOCAL
    except OSError:
        return False


@cache
def _file_system(device: int) -> str:
    """The kind of file system on a device; empty where it is not known."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            before, after = line.split(" - ", 1)
            if before.split()[2] == number:
                return after.split()[0]
    return ""


def will_need(path: FilePath, offset: int, n_bytes: int) -> None:
    """Ask the kernel to fetch bytes that are read soon. Errors are left to the read itself."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.posix_fadvise(descriptor, offset, n_bytes, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


class PlainRows:
    """The rows of a store whose chunks are plain numbers in local files.

    Parameters
    ----------
    store, layout : the store, and its ``plain_chunks()``
    """

    def __init__(self, store: Store, layout: PlainChunks) -> None:
        self._store, self._layout = store, layout
        self._row_bytes = store.n_features * store.itemsize

    def locate(self, row: int) -> tuple[Path, int]:
        """The file that holds a row, and the row's first byte there."""
        chunk, within = divmod(row, self._store.chunk_rows)
        path, offset, *_ = self._layout.locate(chunk)
        return path, offset + within * self._row_bytes

    def fetch(self, start: int, stop: int, target: Tensor) -> None:
        """Copy rows ``start`` to ``stop`` into ``target`` (stop - start, n_features).

        Raises
        ------
        StoreError : a chunk is missing or too short
        """
        rows = as_numpy(target)
        at = start
        while at < stop:
            end = min(stop, (at // self._store.chunk_rows + 1) * self._store.chunk_rows)
            read_exactly(*self.locate(at), rows[at - start : end - start])
            at = end

    def mapped(self, start: int, stop: int) -> Tensor | None:
        """Rows of one chunk, mapped: (stop - start, n_features), read-only; None where they are not aligned."""
        path, offset = self.locate(start)
        if offset % self._store.itemsize:
            return None
        rows = mapped(path, offset, (stop - start) * self._row_bytes)
        return rows.view(torch_dtype(self._store.dtype)).view(stop - start, self._store.n_features)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, rows) of each chunk's part of rows ``start`` to ``stop``, mapped if possible, else read."""
        while start < stop:
            end = min(stop, (start // self._store.chunk_rows + 1) * self._store.chunk_rows)
            rows = self.mapped(start, end)
            if rows is None:
                rows = torch.empty((end - start, self._store.n_features), dtype=torch_dtype(self._store.dtype))
                self.fetch(start, end, rows)
            yield start, rows
            start = end

    def prefetch(self, row: int, n_bytes: int) -> None:
        """Ask the kernel to fetch ``n_bytes`` from a row on in the background."""
        will_need(*self.locate(row), n_bytes)
