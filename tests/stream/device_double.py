"""A device whose streams run as badly as they may: for finding waits that are missing.

Every piece of work is put off and carried out in some order that the waits allow. A copy first fills its target with
NaN, then writes it, and other work may come between; memory comes with work of its former owner still under way; a unit
of a source is overwritten with NaN as soon as its source may fill it again. So rows that are read too early, or
overwritten too early, are not what they should be.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from host_streams import HostStreams
from torch import Tensor

from skillaxes.stream.device import COMPUTE, COPY
from skillaxes.stream.prefetch import LAG

SCHEDULES = ("copy first", "compute first", "random 0", "random 1", "random 2")


class QueuedStreams(HostStreams):
    """Streams of the CPU as two queues.

    Parameters
    ----------
    schedule : ``copy first`` and ``compute first`` run one stream as early as they can and the other one as late as
        they can; ``random N`` runs both by chance
    eager_compute : work of the stream COMPUTE is not put off: for kernels, which know nothing of this class
    """

    def __init__(self, schedule: str, *, eager_compute: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._queues: dict[str, deque[tuple[Callable[[], object] | None, Any]]] = {COPY: deque(), COMPUTE: deque()}
        self._given = {COPY: 0, COMPUTE: 0}
        self._done = {COPY: 0, COMPUTE: 0}
        self._first = schedule.split(maxsplit=1)[0]
        self._chance = random.Random(schedule)
        self._eager_compute = eager_compute

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        made = super().empty(shape, dtype)
        made.fill_(torch.nan)
        self.compute(lambda: made.fill_(torch.nan))  # the former owner's kernel
        return made

    def pinned_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.full(shape, torch.nan, dtype=dtype)

    def upload(self, target: Tensor, source: Tensor) -> None:
        self._give(COPY, lambda: target.fill_(torch.nan))
        self._give(COPY, lambda: target.copy_(source))

    def clear(self, target: Tensor) -> None:
        self._give(COPY, target.zero_)

    def download(self, source: Tensor) -> Tensor:
        found = torch.empty_like(source)
        if found.is_floating_point():
            found.fill_(torch.nan)
        self.compute(lambda: found.copy_(source))
        return found

    def compute(self, work: Callable[[], object]) -> None:
        """A kernel."""
        self._give(COMPUTE, work)

    def record_event(self, stream: str) -> tuple[str, int]:
        return stream, self._given[stream]

    def wait_event(self, stream: str, event: tuple[str, int]) -> None:
        self._give(stream, None, event)

    def synchronize(self, event: tuple[str, int]) -> None:
        stream, place = event
        while self._done[stream] < place:
            assert self._step(), "the streams wait for each other"

    def finish(self) -> None:
        """Carry out all that was given."""
        for stream in (COPY, COMPUTE):
            self.synchronize(self.record_event(stream))

    def _give(self, stream: str, work: Callable[[], object] | None, event: Any = None) -> None:
        self._queues[stream].append((work, event))
        self._given[stream] += 1
        if stream == COMPUTE and self._eager_compute:
            self.synchronize(self.record_event(stream))
        elif self._first == "random":
            for _ in range(self._chance.randrange(4)):
                self._step()
        else:
            while self._run(self._first):
                pass

    def _step(self) -> bool:
        streams = [COPY, COMPUTE]
        if self._first == "random":
            self._chance.shuffle(streams)
        elif self._first == COMPUTE:
            streams.reverse()
        return any(self._run(stream) for stream in streams)

    def _run(self, stream: str) -> bool:
        """Carry out the next piece of work of a stream, unless it has to wait."""
        queue = self._queues[stream]
        if not queue:
            return False
        work, event = queue[0]
        if event is not None and self._done[event[0]] < event[1]:
            return False
        queue.popleft()
        if work is not None:
            work()
        self._done[stream] += 1
        return True


class MatrixSource:
    """Units of a matrix in memory that vanish as soon as a source may take them back."""

    def __init__(self, matrix: Tensor, fetch_rows: int, *, on_device: bool = False, first_row: int = 0) -> None:
        self.matrix, self.fetch_rows, self.on_device, self.first_row = matrix, fetch_rows, on_device, first_row
        self.rows_read = 0
        self._alive: deque[Tensor] = deque()

    def fetch_units(self, *, verify: bool, from_row: int | None = None) -> Iterator[tuple[int, Tensor]]:
        self._alive = deque()
        first = ((from_row or self.first_row) - self.first_row) // self.fetch_rows * self.fetch_rows
        for start in range(first, len(self.matrix), self.fetch_rows):
            unit = self.matrix[start : start + self.fetch_rows].clone()
            self._alive.append(unit)
            self.rows_read += len(unit)
            yield self.first_row + start, unit
            if len(self._alive) > LAG:
                self._alive.popleft().fill_(torch.nan)

    def vanish(self) -> None:
        """What happens to all units once the read has ended."""
        for unit in self._alive:
            unit.fill_(torch.nan)
