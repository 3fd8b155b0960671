"""GPUDirect reads: chunks from a local disk straight into device memory, past host memory.

zarr's GPU buffers over kvikio's store for GPUDirect Storage, handed to torch by DLPack. zarr's GPU buffers alone decode
in host memory and copy at the end. So this read path is taken only where nothing has to be decoded and GPUDirect is at
work. No card has run it yet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skillaxes.errors import StoreError
from skillaxes.stream.prefetch import LAG

if TYPE_CHECKING:
    from skillaxes.store import Store


READ_PATH = "GPUDirect (CuPy)"
_AHEAD = 2  # fetch units on their way while one is copied
UNITS = 2 * (_AHEAD + LAG + 1)  # fetch units in device memory at once; zarr holds each one twice while it reads


def missing() -> str | None:
    """The part that this machine lacks, as one phrase; None when nothing is missing. To be asked where a GPU is."""
    absent = missing_package("cupy") or missing_package("kvikio")
    if absent:
        return absent
    try:
        import kvikio.cufile_driver
        import kvikio.zarr

        available = bool(kvikio.cufile_driver.get("is_gds_available"))
    except Exception as error:  # whatever keeps kvikio from starting, rows come through the host
        return f"kvikio does not start here: {' '.join(str(error).split())}"
    return None if available else "GPUDirect Storage is not set up here (kvikio says so), and kvikio would use the host"


def missing_package(name: str) -> str | None:
    """``"NAME is not installed"`` for an optional package; None when it is there."""
    return None if find_spec(name) is not None else f"{name} is not installed"


def declined(store: Store) -> str | None:
    """The reason why the chunks of ``store`` cannot go straight into device memory; None when they can."""
    plain = store.plain_chunks()
    if plain is None:
        return store.plain_reason
    if plain.checked:
        return "its chunks carry checksums, which are checked in host memory"
    if store.shard_shape is not None:
        return "its chunks lie in shards, which zarr reads into host memory only"
    return missing()


class DirectReader:
    """Fetch units of a contiguous part of a store, in device memory.

    Parameters
    ----------
    store : one for which :func:`declined` returns None
    first_row, last_row : the part, last_row excluded
    from_dlpack : makes a torch tensor of another library's device memory
    device : the GPU that chunks go to; None for CuPy's default
    """

    on_device = True

    def __init__(
        self,
        store: Store,
        first_row: int,
        last_row: int,
        from_dlpack: Callable[[Any], Tensor],
        device: torch.device | None = None,
    ) -> None:
        self._store, self._first, self._last = store, first_row, last_row
        self._from_dlpack, self._device = from_dlpack, device
        self._array = _open(store)
        self.bytes_read = 0

    def fetch_units(self, *, verify: bool, from_row: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, rows) of each fetch unit in order; rows is of shape (n, n_features), in device memory.

        Raises
        ------
        StoreError : a chunk cannot be read
        torch.OutOfMemoryError : the device has no room for a unit
        """
        rows = self._store.chunk_rows
        first = self._first if from_row is None else from_row
        starts = deque(range(first // rows * rows, self._last, rows))
        coming: deque[tuple[int, Future[Any]]] = deque()
        runner = asyncio.Runner(loop_factory=self._event_loop)
        with self._threads(1) as fetcher:
            try:
                while starts or coming:
                    while starts and len(coming) < _AHEAD:
                        start = max(starts[0], self._first)
                        stop = min(starts.popleft() + rows, self._last)
                        coming.append((start, fetcher.submit(self._fetch, runner, start, stop)))
                    start, fetched = coming.popleft()
                    unit = self._from_dlpack(fetched.result())
                    if self._store.dtype == "bfloat16":
                        unit = unit.view(torch.bfloat16)
                    self.bytes_read += unit.nbytes
                    yield start, unit
            finally:
                fetcher.submit(runner.close)

    def _threads(self, number: int | None = None) -> ThreadPoolExecutor:
        """Threads in which CuPy's current device is ``device``: it has one for each thread."""
        return ThreadPoolExecutor(number, thread_name_prefix="skillaxes-gds", initializer=self._use_device)

    def _use_device(self) -> None:
        if self._device is not None and self._device.type == "cuda":
            import cupy

            cupy.cuda.Device(self._device.index or 0).use()

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that zarr reads in, in place of its own: kvikio allocates in the threads of the loop."""
        loop = asyncio.new_event_loop()
        loop.set_default_executor(self._threads())
        return loop

    def _fetch(self, runner: asyncio.Runner, start: int, stop: int) -> Any:
        from zarr.core.buffer.gpu import buffer_prototype

        try:
            values = runner.run(self._array.async_array.getitem((slice(start, stop),), prototype=buffer_prototype))
        except MemoryError as error:  # CuPy's own is one
            raise torch.OutOfMemoryError(str(error)) from error
        except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
            raise StoreError(
                f"rows {start} to {stop - 1} of {self._store.path} cannot be read into GPU memory "
                f"({' '.join(str(error).split())}); --no-gds reads them through the host"
            ) from error
        return values.reshape(stop - start, self._store.n_features)


def _open(store: Store) -> Any:
    """The store's array over kvikio's files, decoded by zarr's own pipeline: zarrs knows no GPU buffers."""
    import zarr
    from kvikio.zarr import GDSStore

    from skillaxes.store.bfloat16 import bfloat16_known

    with bfloat16_known(), zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        return zarr.open_array(GDSStore(store.path, read_only=True), mode="r")
