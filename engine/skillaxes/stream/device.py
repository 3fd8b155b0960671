"""The seam between host and device: everything that knows of streams, events and page-locked memory stands here.

Work on a device runs in two lanes side by side, each in its own order: ``COPIES`` brings rows from the host,
``COMPUTE`` is where the kernels run. A mark is a place in a lane; a lane, or the host, can wait for it. Whoever reuses
memory waits for the mark behind its last use; nothing else keeps the lanes apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

COPIES, COMPUTE = "copies", "compute"
Mark = Any  # opaque: what a seam's ``mark`` returns
_TYPICAL_L2 = 40 << 20  # an A100's, where torch does not tell


class Seam(Protocol):
    """What the device stream asks of a device."""

    name: str

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised device memory; torch.OutOfMemoryError when there is none."""

    def host_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised host memory that copies run from in the background."""

    def upload(self, target: Tensor, source: Tensor) -> None:
        """Copy host or device rows into device memory, in the lane of copies; returns at once."""

    def clear(self, target: Tensor) -> None:
        """Fill device memory with zeros, in the lane of copies."""

    def download(self, source: Tensor) -> Tensor:
        """A host tensor that holds ``source`` once a mark taken in the lane of compute afterwards is reached."""

    def adopt(self, foreign: Any) -> Tensor:
        """The device memory of another library (DLPack), as the lane of copies may read it."""

    def mark(self, lane: str) -> Mark:
        """Behind everything that was given to ``lane`` so far."""

    def wait(self, lane: str, mark: Mark) -> None:
        """Let ``lane`` go no further before ``mark`` is reached; the host goes on."""

    def join(self, mark: Mark) -> None:
        """Let the host wait until ``mark`` is reached."""

    def free_bytes(self) -> int:
        """Device memory that could be allocated now."""

    def total_bytes(self) -> int:
        """Device memory in all."""

    def l2_bytes(self) -> int:
        """The device's outermost cache."""

    def release(self) -> None:
        """Give memory that is allocated and unused back to the device."""


class CudaSeam:
    """A GPU: the lane of compute is torch's current stream, the lane of copies a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copies = torch.cuda.Stream(device)
        self.name = torch.cuda.get_device_name(device)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def host_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with torch.cuda.device(self.device):  # else page-locking opens a context on the first GPU too
            return torch.empty(shape, dtype=dtype, pin_memory=True)

    def upload(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)

    def clear(self, target: Tensor) -> None:
        with torch.cuda.stream(self._copies):
            target.zero_()

    def download(self, source: Tensor) -> Tensor:
        return source.to("cpu", non_blocking=True)  # torch makes the target page-locked

    def adopt(self, foreign: Any) -> Tensor:
        with torch.cuda.stream(self._copies):  # the other library lets this stream wait for its own
            return torch.from_dlpack(foreign)

    def mark(self, lane: str) -> Mark:
        event = torch.cuda.Event()
        event.record(self._stream(lane))
        return event

    def wait(self, lane: str, mark: Mark) -> None:
        self._stream(lane).wait_event(mark)

    def join(self, mark: Mark) -> None:
        mark.synchronize()

    def free_bytes(self) -> int:
        held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + held

    def total_bytes(self) -> int:
        return torch.cuda.mem_get_info(self.device)[1]

    def l2_bytes(self) -> int:
        return getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 0) or _TYPICAL_L2

    def release(self) -> None:
        with torch.cuda.device(self.device):
            torch.cuda.empty_cache()

    def _stream(self, lane: str) -> torch.cuda.Stream:
        return self._copies if lane == COPIES else torch.cuda.current_stream(self.device)


def open_seam(device: torch.device) -> Seam | None:
    """The seam to ``device``; None on a CPU, where rows are used where they were read."""
    return CudaSeam(device) if device.type == "cuda" else None


DEPTH = 4  # panels whose results may be under way


class Outbox:
    """Results in order.

    Parameters
    ----------
    seam : the device; None on a CPU
    """

    def __init__(self, seam: Seam | None) -> None:
        self._seam = seam
        self._under_way: deque[tuple[Mark, tuple[Tensor, ...], Callable[..., None]]] = deque()

    @property
    def deferred(self) -> bool:
        """Whether results come later, so that nothing may be asked of a panel's values on the host."""
        return self._seam is not None

    def send(self, take: Callable[..., None], *results: Tensor) -> None:
        """Call ``take`` with ``results`` on the host, after those that were sent before. What it raises comes out of
        the call in which it is called.
        """
        if self._seam is None:
            take(*results)
            return
        there = tuple(self._seam.download(result) for result in results)
        self._under_way.append((self._seam.mark(COMPUTE), there, take))
        if len(self._under_way) > DEPTH:
            self._take_one()

    def drain(self) -> None:
        """Take in all that is under way."""
        while self._under_way:
            self._take_one()

    def _take_one(self) -> None:
        assert self._seam is not None
        mark, there, take = self._under_way.popleft()
        self._seam.join(mark)
        take(*there)
