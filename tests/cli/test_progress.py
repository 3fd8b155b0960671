"""Law: a bar on a terminal, at most one line in ten seconds elsewhere and one at the end, nothing with ``--quiet``."""

from __future__ import annotations

import io

from rich.console import Console

from skillaxes.cli.progress import Bars, Lines, clock_time, make_progress
from skillaxes.progress import SILENT, format_duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_rare_and_say_rate_and_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with Lines(stream, clock).stage("read 1", 6_000, unit_bytes=1_000_000) as stage:
        for _ in range(60):  # a minute at 100 rows/s
            clock.now += 1
            stage.advance(100)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "read 1: 16% of 6,000 rows  100 rows/s  0.10 GB/s  0:50 left",
        "read 1: 33% of 6,000 rows  100 rows/s  0.10 GB/s  0:40 left",
        "read 1: 50% of 6,000 rows  100 rows/s  0.10 GB/s  0:30 left",
        "read 1: 66% of 6,000 rows  100 rows/s  0.10 GB/s  0:20 left",
        "read 1: 83% of 6,000 rows  100 rows/s  0.10 GB/s  0:10 left",
        "read 1: 6,000 rows in 60 s  100 rows/s  0.10 GB/s",
    ]


def test_other_units_and_stages_of_nothing() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Lines(stream, clock)
    with progress.stage("labels", 3, unit="directions") as stage:
        clock.now += 6
        stage.advance(3)
    with progress.stage("nothing", 0):
        pass
    progress.note("by the way")
    assert stream.getvalue().splitlines() == [
        "labels: 3 directions in 6 s  0.5 directions/s",
        "nothing: 0 rows in 0 s",
        "by the way",
    ]


def test_a_stage_that_fails_does_not_claim_an_end() -> None:
    stream = io.StringIO()
    try:
        with Lines(stream).stage("read 1", 10):
            raise ValueError
    except ValueError:
        pass
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_that_fits_and_one_line_that_stays() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    with Bars(console, clock).stage("read 2", 1_000, unit_bytes=30_000_000) as stage:
        clock.now += 10
        stage.advance(500)
        bar = stage._bar  # type: ignore[attr-defined]
        bar.refresh()
        assert "0:10" in stream.getvalue() and "50 rows/s  1.50 GB/s" in stream.getvalue()
        clock.now += 10
        stage.advance(500)
    last = stream.getvalue().splitlines()[-1]
    assert "read 2: 1,000 rows in 20 s  50 rows/s  1.50 GB/s" in last
    assert all(len(line) < 160 for line in stream.getvalue().splitlines())


def test_the_stream_decides() -> None:
    assert make_progress(quiet=True) is SILENT
    assert isinstance(make_progress(quiet=False, stream=io.StringIO()), Lines)


def test_times() -> None:
    assert [clock_time(s) for s in (0, 12.4, 61, 3723)] == ["0:00", "0:12", "1:01", "1:02:03"]
    assert [format_duration(s) for s in (0.0421, 9, 12, 200, 3723)] == [
        "0.042 s",
        "9 s",
        "12 s",
        "3 min 20 s",
        "62 min 3 s",
    ]
