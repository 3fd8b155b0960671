"""How long work speaks: one protocol, so that the engine never prints.

The engine reports through a :class:`Progress`; the command line draws it as a bar on a terminal
and as plain lines elsewhere; from Python nothing is shown unless a ``Progress`` is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Stage(Protocol):
    """One stretch of work under way."""

    def advance(self, rows: int) -> None:
        """``rows`` further units are done."""


class Progress(Protocol):
    """Where stages and remarks go."""

    def note(self, text: str) -> None:
        """One remark that the user should see, without a newline."""

    def stage(self, name: str, total: int, *, unit: str = "rows", unit_bytes: int = 0):  # type: ignore[no-untyped-def]
        """A context manager yielding a :class:`Stage`.

        Parameters
        ----------
        name : what is going on, e.g. ``"read 2"``
        total : how many units it takes
        unit : what is counted
        unit_bytes : bytes behind one unit; 0 where a rate in GB/s means nothing
        """


class _SilentStage:
    def advance(self, rows: int) -> None:
        pass


class Silent:
    """The :class:`Progress` that says nothing."""

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "rows", unit_bytes: int = 0) -> Iterator[Stage]:
        yield _SilentStage()


SILENT = Silent()


def format_duration(seconds: float) -> str:
    """``"0.42 s"``, ``"12 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
