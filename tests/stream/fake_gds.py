"""CuPy and kvikio where neither is: numpy in the place of device memory, plain files in the place of GPUDirect.

zarr itself, its GPU buffers included, is the real one.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest


class Cards:
    """CuPy's current device, which is the thread's own.

    Attributes
    ----------
    allocated : the device of every allocation, as they come
    """

    def __init__(self) -> None:
        self._thread = threading.local()
        self.allocated: list[int] = []

    def device(self, index: int) -> Any:
        """``cupy.cuda.Device``."""
        return SimpleNamespace(use=lambda: setattr(self._thread, "current", index))

    def allocate(self, array: np.ndarray) -> DeviceArray:
        """``array`` on the device that is current."""
        self.allocated.append(getattr(self._thread, "current", 0))
        return array.view(DeviceArray)


class DeviceArray(np.ndarray):
    """Host memory that calls itself device memory, so that zarr takes it as it is."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.__array_interface__


def install(patch: pytest.MonkeyPatch, *, available: bool = True) -> list[str]:
    """Put the fakes in place; returns the keys of the chunks that went straight into device memory, as they go."""
    import zarr.core.buffer.gpu
    from zarr.core.buffer.core import default_buffer_prototype
    from zarr.storage import LocalStore

    fetched: list[str] = []
    cupy = _module(patch, "cupy")
    cards = Cards()
    cupy.cards = cards  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(Device=cards.device)  # type: ignore[attr-defined]
    cupy.empty = lambda *a, **k: cards.allocate(np.empty(*a, **k))  # type: ignore[attr-defined]
    cupy.asarray = lambda a: np.asanyarray(a).view(DeviceArray)  # type: ignore[attr-defined]
    cupy.array = lambda *a, **k: np.array(*a, **k).view(DeviceArray)  # type: ignore[attr-defined]
    cupy.asanyarray = cupy.asarray  # type: ignore[attr-defined]
    cupy.frombuffer = lambda *a, **k: np.frombuffer(*a, **k).view(DeviceArray)  # type: ignore[attr-defined]
    cupy.asnumpy = np.asarray  # type: ignore[attr-defined]
    cupy.concatenate = np.concatenate  # type: ignore[attr-defined]
    patch.setattr(zarr.core.buffer.gpu, "cp", cupy)

    class GDSStore(LocalStore):
        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            found = await super().get(key, default_buffer_prototype(), byte_range)
            if found is None or prototype is None or prototype.buffer is not zarr.core.buffer.gpu.Buffer:
                return found
            fetched.append(key)
            held = await asyncio.to_thread(cards.allocate, found.as_numpy_array())  # as kvikio's own does
            return prototype.buffer.from_array_like(held)

    kvikio = _module(patch, "kvikio")
    kvikio.zarr = _module(patch, "kvikio.zarr")  # type: ignore[attr-defined]
    kvikio.zarr.GDSStore = GDSStore  # type: ignore[attr-defined]
    kvikio.cufile_driver = _module(patch, "kvikio.cufile_driver")  # type: ignore[attr-defined]
    kvikio.cufile_driver.get = {"is_gds_available": available}.__getitem__  # type: ignore[attr-defined]
    return fetched


def _module(patch: pytest.MonkeyPatch, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    patch.setitem(sys.modules, name, module)
    return module


def unchecked_store(
    path: Path, rows: np.ndarray, *, chunk_rows: int = 97, sharded: bool = False, hidden: int = 0
) -> Path:
    """A store of uncompressed chunks without checksums, as zarr itself writes it; with ``hidden``, in layers."""
    import zarr

    shape = rows.shape if not hidden else (len(rows), rows.shape[1] // hidden, hidden)
    chunks = (chunk_rows, *shape[1:])
    shards = (4 * chunk_rows, *shape[1:]) if sharded else None
    array = zarr.create_array(
        path, shape=shape, chunks=chunks, shards=shards, dtype=rows.dtype, compressors=None, overwrite=True
    )
    array[...] = rows.reshape(shape)
    return path
