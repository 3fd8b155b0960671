"""The protocol by which the engine reports progress; the engine itself prints nothing.

The command line shows a :class:`Progress` as a bar on a terminal and as plain lines elsewhere. In Python nothing is
shown unless a ``Progress`` is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Stage(Protocol):
    """A running stage of a job."""

    def advance(self, rows: int) -> None:
        """Report that ``rows`` more units are done."""


class Progress(Protocol):
    """A receiver of stages and remarks."""

    def note(self, text: str) -> None:
        """Show one remark, a text without a newline."""

    def stage(self, name: str, total: int, *, unit: str = "rows", unit_bytes: int = 0):  # type: ignore[no-untyped-def]
        """A context manager that yields a :class:`Stage`.

        Parameters
        ----------
        name : name of the stage, e.g. ``"read 2"``
        total : number of units
        unit : name of the units
        unit_bytes : bytes of one unit; 0 for no rate in GB/s
        """


class _SilentStage:
    def advance(self, rows: int) -> None:
        pass


class Silent:
    """A :class:`Progress` that shows nothing."""

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "rows", unit_bytes: int = 0) -> Iterator[Stage]:
        yield _SilentStage()


SILENT = Silent()


def format_duration(seconds: float) -> str:
    """A duration as text: ``"0.42 s"``, ``"12 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
