"""The law: a checkpoint is on the disk before its interval is over, as far as panels and writing take as long as they
did before; a job of a few seconds writes none.
"""

from __future__ import annotations

import pytest

from skillaxes.run import checkpoint
from skillaxes.run.checkpoint import CheckpointSchedule


class Clock:
    """A time that goes on by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(checkpoint, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(("panel", "writing"), [(0.3, 0.2), (0.9, 0.0), (0.1, 0.8), (0.01, 0.01)])
def test_it_is_written_before_the_interval_is_over(clock: Clock, panel: float, writing: float) -> None:
    schedule, written = CheckpointSchedule(2.0), clock.now
    clock.now += 1.0  # what it takes to load and to begin counts
    schedule.begin_read()
    longest = 0.0
    for _ in range(200):
        clock.now += panel
        longest = max(longest, clock.now - written)
        if schedule.after_panel():
            clock.now += writing
            longest = max(longest, clock.now - written)
            schedule.written(writing)
            written = clock.now
    assert longest <= 2.0 + writing + 1e-6  # the first writing could not be known
    assert longest >= 1.0, "no more often than the interval asks for"


def test_slow_panels_and_a_slow_disk_leave_half_of_the_time_for_work(clock: Clock) -> None:
    schedule = CheckpointSchedule(2.0)
    schedule.written(60.0)
    schedule.begin_read()
    clock.now += 0.9
    assert not schedule.after_panel()
    clock.now += 0.2
    assert schedule.after_panel()


def test_at_every_panel(clock: Clock) -> None:
    schedule = CheckpointSchedule(0.0)
    schedule.begin_read()
    assert schedule.after_panel() and schedule.after_panel()


def test_a_short_job_writes_none(clock: Clock) -> None:
    schedule = CheckpointSchedule(600.0)
    schedule.begin_read()
    clock.now += 4.0
    schedule.end_read()
    assert not schedule.after_stage(last=False, then_locked=True)
    assert not schedule.after_stage(last=True, then_locked=False)


def test_what_cannot_be_written_within_a_read_is_written_before_it(clock: Clock) -> None:
    schedule = CheckpointSchedule(4.0)
    schedule.begin_read()
    clock.now += 3.0
    schedule.end_read()
    schedule.written(0.0)
    assert schedule.after_stage(last=False, then_locked=True)
    assert not schedule.after_stage(last=False, then_locked=False)
    assert schedule.after_stage(last=True, then_locked=False), "a job that was worth one has its last stage on record"
