"""What the manifest says of the stages of a job, those of earlier attempts included."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skillaxes import memory
from skillaxes.cluster.world import ALONE, World
from skillaxes.stream.panels import PanelStream


@dataclass
class StageLog:
    """The stages so far, and the time that the job has taken.

    Attributes
    ----------
    stages : one record a stage
    world : whose traffic is noted
    under_way : the stage that runs; None between two
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
        """Do ``work`` and note what it took."""
        self.under_way, self._spent = name, (0.0, 0)
        self._began, self._bytes, reads_before = time.perf_counter(), stream.bytes_read, stream.reads
        sent_before = dict(self.world.bytes_sent)
        result = work()
        seconds, taken = self.spent(stream)
        self.stages.append(
            {
                "name": name,
                "status": "done",
                "seconds": round(seconds, 4),
                "reads": stream.reads - reads_before,
                "bytes": taken,
                "peak_memory_bytes": memory.peak(),
            }
        )
        if self.world.world_size > 1:
            handed = self.world.bytes_sent
            self.stages[-1]["bytes_sent"] = {name: handed[name] - sent_before[name] for name in handed}
        self.under_way = None
        return result

    def note(self, **details: Any) -> None:
        """Add to the record of the last complete stage."""
        self.stages[-1] |= details

    def spent(self, stream: PanelStream) -> tuple[float, int]:
        """Seconds and bytes of the stage under way, in all attempts."""
        seconds, taken = self._spent
        return seconds + time.perf_counter() - self._began, taken + stream.bytes_read - self._bytes

    def go_on(self, spent: tuple[float, int], stream: PanelStream) -> None:
        """The stage under way goes on from where an earlier attempt had spent ``spent`` seconds and bytes on it."""
        self._spent, self._bytes = spent, stream.bytes_read

    @property
    def last(self) -> str:
        """The name of the last complete stage."""
        return self.stages[-1]["name"] if self.stages else "the beginning"

    @property
    def seconds(self) -> float:
        """Of the job, in all attempts."""
        return self._seconds_before + time.perf_counter() - self._began_job

    def resume(self, stages: list[dict[str, Any]], seconds: float) -> None:
        """What earlier attempts had done, and behind it what was given up in this one."""
        kept = {stage["name"] for stage in stages}
        given_up = [stage for stage in self.stages if stage["status"] != "done" and stage["name"] not in kept]
        self.stages = [*stages, *given_up]
        self._seconds_before = seconds

    def begin_anew(self) -> None:
        """Say that everything so far has to be done again."""
        for stage in self.stages:
            stage["status"] = "given up"
