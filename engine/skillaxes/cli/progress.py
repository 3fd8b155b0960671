"""Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing with ``--quiet``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from skillaxes.progress import SILENT, Progress, Stage, format_duration

if TYPE_CHECKING:
    from rich.console import Console


SECONDS_BETWEEN_LINES = 10.0


def make_progress(quiet: bool, stream: TextIO | None = None) -> Progress:
    """The :class:`Progress` that suits ``stream`` (default: stderr)."""
    stream = stream or sys.stderr
    if quiet:
        return SILENT
    if stream.isatty():
        from rich.console import Console

        return Bars(Console(file=stream, highlight=False))
    return Lines(stream)


class Tally:
    """How far a stage is and how fast it goes."""

    def __init__(self, name: str, total: int, unit: str, unit_bytes: int, clock: Callable[[], float]) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.unit_bytes = unit_bytes
        self.done = 0
        self._clock = clock
        self._began = clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    def rates(self) -> str:
        """``"10,400 rows/s  0.68 GB/s"``; empty before anything is done."""
        seconds = self.seconds
        if not self.done or seconds <= 0:
            return ""
        rate = self.done / seconds
        text = f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.1f} {self.unit}/s"
        return text + (f"  {rate * self.unit_bytes / 1e9:.2f} GB/s" if self.unit_bytes else "")

    def left(self) -> str:
        """The time left, ``"0:12"``; empty before anything is done."""
        if not self.done or self.total <= self.done:
            return ""
        return clock_time(self.seconds / self.done * (self.total - self.done))

    def under_way(self) -> str:
        share = 100 * self.done // max(1, self.total)
        parts = [f"{share}% of {self.total:,} {self.unit}", self.rates(), f"{self.left()} left" if self.left() else ""]
        return f"{self.name}: " + "  ".join(part for part in parts if part)

    def ended(self) -> str:
        parts = [f"{self.done:,} {self.unit} in {format_duration(self.seconds)}", self.rates()]
        return f"{self.name}: " + "  ".join(part for part in parts if part)


class Lines:
    """One line when a stage ends, and one every ten seconds while it goes on."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "rows", unit_bytes: int = 0) -> Iterator[Stage]:
        tally = Tally(name, total, unit, unit_bytes, self._clock)
        yield _LineStage(tally, self.note, self._clock)
        self.note(tally.ended())


class _LineStage:
    def __init__(self, tally: Tally, note: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._tally = tally
        self._note = note
        self._clock = clock
        self._next = clock() + SECONDS_BETWEEN_LINES

    def advance(self, rows: int) -> None:
        self._tally.done += rows
        if self._clock() >= self._next and self._tally.done < self._tally.total:
            self._note(self._tally.under_way())
            self._next = self._clock() + SECONDS_BETWEEN_LINES


class Bars:
    """A bar while a stage goes on; one line stays when it has ended."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock

    def note(self, text: str) -> None:
        self._console.print(text, markup=False)

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "rows", unit_bytes: int = 0) -> Iterator[Stage]:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        tally = Tally(name, total, unit, unit_bytes, self._clock)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rates]}  {task.fields[left]}", markup=False),
        )
        # `transient`: the bar goes, the line below stays.
        with Bar(*columns, console=self._console, transient=True, expand=True, refresh_per_second=4) as bar:
            task = bar.add_task(name, total=total, rates="", left="")
            yield _BarStage(tally, bar, task)
        self._console.print(tally.ended(), markup=False, style="dim")


class _BarStage:
    def __init__(self, tally: Tally, bar: Any, task: Any) -> None:
        self._tally = tally
        self._bar = bar
        self._task = task

    def advance(self, rows: int) -> None:
        self._tally.done += rows
        self._bar.update(self._task, completed=self._tally.done, rates=self._tally.rates(), left=self._tally.left())


def clock_time(seconds: float) -> str:
    """Seconds as ``"0:12"`` or ``"1:02:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
