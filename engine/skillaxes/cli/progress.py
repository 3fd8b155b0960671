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


class Rate:
    """Units of a stage that are done, their rate, and the time left, as text.

    Parameters
    ----------
    unit_bytes : bytes of one unit; 0 for no rate in bytes
    clock : seconds
    """

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

    def eta(self) -> str:
        """The time left, ``"0:12"``; empty before anything is done and at the end."""
        if not self.done or self.total <= self.done:
            return ""
        return clock_time(self.seconds / self.done * (self.total - self.done))

    def running_line(self) -> str:
        """The line of a stage that goes on."""
        share = 100 * self.done // max(1, self.total)
        parts = [f"{share}% of {self.total:,} {self.unit}", self.rates(), f"{self.eta()} left" if self.eta() else ""]
        return f"{self.name}: " + "  ".join(part for part in parts if part)

    def done_line(self) -> str:
        """The line of a stage that has ended."""
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
        rate = Rate(name, total, unit, unit_bytes, self._clock)
        yield _LineStage(rate, self.note, self._clock)
        self.note(rate.done_line())


class _LineStage:
    def __init__(self, rate: Rate, note: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._rate = rate
        self._note = note
        self._clock = clock
        self._next = clock() + SECONDS_BETWEEN_LINES

    def advance(self, rows: int) -> None:
        self._rate.done += rows
        if self._clock() >= self._next and self._rate.done < self._rate.total:
            self._note(self._rate.running_line())
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

        rate = Rate(name, total, unit, unit_bytes, self._clock)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rates]}  {task.fields[eta]}", markup=False),
        )
        # `transient`: the bar goes, the line below stays.
        with Bar(*columns, console=self._console, transient=True, expand=True, refresh_per_second=4) as bar:
            task = bar.add_task(name, total=total, rates="", eta="")
            yield _BarStage(rate, bar, task)
        self._console.print(rate.done_line(), markup=False, style="dim")


class _BarStage:
    def __init__(self, rate: Rate, bar: Any, task: Any) -> None:
        self._rate = rate
        self._bar = bar
        self._task = task

    def advance(self, rows: int) -> None:
        self._rate.done += rows
        self._bar.update(self._task, completed=self._rate.done, rates=self._rate.rates(), eta=self._rate.eta())


def clock_time(seconds: float) -> str:
    """Seconds as ``"0:12"`` or ``"1:02:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
