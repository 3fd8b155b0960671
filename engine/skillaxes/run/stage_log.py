"""Log of the stages of a job for its manifest, with those of earlier attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skillaxes import memory
from skillaxes.cluster.world import ALONE, World
from skillaxes.stream.panels import PanelStream

DONE, GIVEN_UP = "done", "given up"  # status of a stage


@dataclass
class StageLog:
    """Stages and time of a job, with those of earlier attempts.

    Attributes
    ----------
    stages : one record for each stage
    world : the processes whose traffic is logged
    under_way : the running stage; None between two stages
    """

    stages: list[dict[str, Any]] = field(default_factory=list)
    world: World = ALONE
    under_way: str | None = None
    _began_job: float = field(default_factory=time.perf_counter)
    _seconds_before: float = 0.0
    _began: float = 0.0
    _bytes: int = 0
    _spent: tuple[float, int] = (0.0, 0)

    def run(self, name: str, stream: PanelStream, work: Callable[[], Any]) -> Any:
        """Run the stage ``name`` by calling ``work``, and log its time, reads, bytes and memory."""
        self.under_way, self._spent = name, (0.0, 0)
        self._began, self._bytes, reads_before = time.perf_counter(), stream.bytes_read, stream.reads
        sent_before = dict(self.world.bytes_sent)
        result = work()
        seconds, taken = self.spent(stream)
        self.stages.append(
            {
                "name": name,
                "status": DONE,
                "seconds": round(seconds, 4),
                "reads": stream.reads - reads_before,
                "bytes": taken,
                "peak_memory_bytes": memory.peak(),
            }
        )
        if self.world.world_size > 1:
            sent = self.world.bytes_sent
            self.stages[-1]["bytes_sent"] = {name: sent[name] - sent_before[name] for name in sent}
        self.under_way = None
        return result

    def note(self, **details: Any) -> None:
        """Add entries to the record of the last complete stage."""
        self.stages[-1] |= details

    def spent(self, stream: PanelStream) -> tuple[float, int]:
        """Seconds and bytes of the running stage in all attempts."""
        seconds, taken = self._spent
        return seconds + time.perf_counter() - self._began, taken + stream.bytes_read - self._bytes

    def go_on(self, spent: tuple[float, int], stream: PanelStream) -> None:
        """Resume the running stage, on which an earlier attempt spent ``spent`` seconds and bytes."""
        self._spent, self._bytes = spent, stream.bytes_read

    @property
    def last(self) -> str:
        """The name of the last complete stage."""
        return self.stages[-1]["name"] if self.stages else "the beginning"

    @property
    def seconds(self) -> float:
        """Seconds of the job in all attempts."""
        return self._seconds_before + time.perf_counter() - self._began_job

    def resume(self, stages: list[dict[str, Any]], seconds: float) -> None:
        """Log the stages and seconds of earlier attempts, followed by the stages given up in this one."""
        resumed = {stage["name"] for stage in stages}
        given_up = [stage for stage in self.stages if stage["status"] != DONE and stage["name"] not in resumed]
        self.stages = [*stages, *given_up]
        self._seconds_before = seconds

    def begin_anew(self) -> None:
        """Mark all stages so far as given up."""
        for stage in self.stages:
            stage["status"] = GIVEN_UP
