"""CUDA streams, events and pinned memory behind one protocol, and results that come back to the host later.

Work on a device runs in two streams, each in its own order: ``COPY`` brings rows from the host, ``COMPUTE`` runs the
kernels. An event is a place in a stream; a stream, or the host, can wait for it. Memory is used again only behind the
event of its last use: nothing else keeps the two streams apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

COPY, COMPUTE = "copy", "compute"
DEPTH = 4  # panels whose results may be pending
_TYPICAL_L2 = 40 << 20  # an A100's, where torch does not tell
Event = Any  # opaque: made by ``DeviceStreams.record_event``


class DeviceStreams(Protocol):
    """The two streams of a device, its memory, and copies from and to the host.

    name : of the device, for people
    """

    name: str

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised device memory; torch.OutOfMemoryError when there is none."""

    def pinned_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised host memory that copies run from in the background."""

    def upload(self, target: Tensor, source: Tensor) -> None:
        """Copy host or device rows into device memory, in COPY; returns at once."""

    def clear(self, target: Tensor) -> None:
        """Fill device memory with zeros, in COPY."""

    def download(self, source: Tensor) -> Tensor:
        """A host tensor that holds ``source`` once an event that is recorded afterwards in COMPUTE is reached."""

    def from_dlpack(self, foreign: Any) -> Tensor:
        """The device memory of another library as a tensor, ready to be read in COPY."""

    def record_event(self, stream: str) -> Event:
        """An event behind everything that was given to ``stream`` so far."""

    def wait_event(self, stream: str, event: Event) -> None:
        """Let ``stream`` go no further before ``event`` is reached; the host goes on."""

    def synchronize(self, event: Event) -> None:
        """Let the host wait until ``event`` is reached."""

    def free_bytes(self) -> int:
        """Device memory that could be allocated now."""

    def total_bytes(self) -> int:
        """Device memory in all."""

    def l2_bytes(self) -> int:
        """Size of the device's outermost cache."""

    def empty_cache(self) -> None:
        """Give memory that is allocated and unused back to the device."""


class CudaStreams:
    """A GPU: COMPUTE is torch's current stream, COPY a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copy = torch.cuda.Stream(device)
        self.name = torch.cuda.get_device_name(device)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def pinned_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with torch.cuda.device(self.device):  # else page-locking opens a context on the first GPU too
            return torch.empty(shape, dtype=dtype, pin_memory=True)

    def upload(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._copy):
            target.copy_(source, non_blocking=True)

    def clear(self, target: Tensor) -> None:
        with torch.cuda.stream(self._copy):
            target.zero_()

    def download(self, source: Tensor) -> Tensor:
        return source.to("cpu", non_blocking=True)  # torch makes the target page-locked

    def from_dlpack(self, foreign: Any) -> Tensor:
        with torch.cuda.stream(self._copy):  # the other library lets this stream wait for its own
            return torch.from_dlpack(foreign)

    def record_event(self, stream: str) -> Event:
        event = torch.cuda.Event()
        event.record(self._stream(stream))
        return event

    def wait_event(self, stream: str, event: Event) -> None:
        self._stream(stream).wait_event(event)

    def synchronize(self, event: Event) -> None:
        event.synchronize()

    def free_bytes(self) -> int:
        held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + held

    def total_bytes(self) -> int:
        return torch.cuda.mem_get_info(self.device)[1]

    def l2_bytes(self) -> int:
        return getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 0) or _TYPICAL_L2

    def empty_cache(self) -> None:
        with torch.cuda.device(self.device):
            torch.cuda.empty_cache()

    def _stream(self, stream: str) -> torch.cuda.Stream:
        return self._copy if stream == COPY else torch.cuda.current_stream(self.device)


def device_streams(device: torch.device) -> DeviceStreams | None:
    """The streams of ``device``; None on a CPU, where rows are used where they were read."""
    return CudaStreams(device) if device.type == "cuda" else None


class DeferredResults:
    """Results that are copied to the host in the background and handed to callbacks there, in order.

    Parameters
    ----------
    streams : of the device; None on a CPU, where callbacks run at once
    """

    def __init__(self, streams: DeviceStreams | None) -> None:
        self._streams = streams
        self._pending: deque[tuple[Event, tuple[Tensor, ...], Callable[..., None]]] = deque()

    @property
    def deferred(self) -> bool:
        """Whether results come later, so that no value of a panel may be asked for on the host."""
        return self._streams is not None

    def submit(self, callback: Callable[..., None], *results: Tensor) -> None:
        """Call ``callback`` with ``results`` on the host, after the callbacks that were submitted before.

        On a device it is called by a later ``submit``, or by ``flush``. Its exceptions are raised there.
        """
        if self._streams is None:
            callback(*results)
            return
        copied = tuple(self._streams.download(result) for result in results)
        self._pending.append((self._streams.record_event(COMPUTE), copied, callback))
        if len(self._pending) > DEPTH:
            self._deliver_one()

    def flush(self) -> None:
        """Wait for all pending results and call their callbacks."""
        while self._pending:
            self._deliver_one()

    def _deliver_one(self) -> None:
        assert self._streams is not None
        event, copied, callback = self._pending.popleft()
        self._streams.synchronize(event)
        callback(*copied)
