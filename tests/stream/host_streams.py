"""The CPU in the place of a GPU: for tests, and for trying out the flow of the benchmarks."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from skillaxes.stream.device import Event


class HostStreams:
    """The CPU in the place of a GPU: all work is done when the call returns, so every event is reached.

    For tests and for trying out the control flow; a job on the CPU needs no streams.

    Parameters
    ----------
    free : bytes that ``empty`` grants before it is out of memory
    l2 : what ``l2_bytes`` answers
    """

    def __init__(self, *, free: int = 1 << 30, l2: int = 1 << 20) -> None:
        self.name = "the host in the place of a GPU"
        self._total, self._l2 = free, l2
        self._granted: list[tuple[Any, int]] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        made = torch.empty(shape, dtype=dtype)
        if made.nbytes > self.free_bytes():
            raise torch.OutOfMemoryError(f"tried to allocate {made.nbytes} bytes, {self.free_bytes()} are free")
        self._granted.append((weakref.ref(made), made.nbytes))
        return made

    def pinned_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def upload(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source)

    def clear(self, target: Tensor) -> None:
        target.zero_()

    def download(self, source: Tensor) -> Tensor:
        return source.clone()

    def from_dlpack(self, foreign: Any) -> Tensor:
        return torch.from_dlpack(foreign)

    def record_event(self, stream: str) -> Event:
        return None

    def wait_event(self, stream: str, event: Event) -> None:
        pass

    def synchronize(self, event: Event) -> None:
        pass

    def free_bytes(self) -> int:
        self._granted = [(there, size) for there, size in self._granted if there() is not None]
        return self._total - sum(size for _, size in self._granted)

    def total_bytes(self) -> int:
        return self._total

    def l2_bytes(self) -> int:
        return self._l2

    def empty_cache(self) -> None:
        pass
