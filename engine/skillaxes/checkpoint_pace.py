"""When a checkpoint is due."""

from __future__ import annotations

from time import monotonic

_WORTH = 5.0  # seconds of complete stages that are worth a checkpoint
_BETWEEN_MARKS = 0.25  # seconds


class Pace:
    """The clock of a job's checkpoints: one is due so early that it lies on the disk before the interval is over.

    Parameters
    ----------
    every : seconds between checkpoints; 0 for one at every panel

    Attributes
    ----------
    worth_it : whether one was written before; a job of a few seconds writes none
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self.worth_it = False
        self._last = self._marked = self._panel = self._began_read = monotonic()
        self._read_seconds = self._writing = 0.0

    @property
    def since(self) -> float:
        """Seconds since the last checkpoint; loading it counts as work."""
        return monotonic() - self._last

    def begin_read(self) -> None:
        """A read begins."""
        self._panel = self._began_read = monotonic()

    def end_read(self) -> None:
        """A read is complete."""
        self._read_seconds = monotonic() - self._began_read

    def after_panel(self) -> bool:
        """Whether one is due: the next panel and the writing, if they take as long as before, end with the interval."""
        now = monotonic()
        took, self._panel = now - self._panel, now
        ahead = min(took + self._writing, self._every / 2)
        return now - self._last >= self._every - ahead

    def after_stage(self, *, last: bool, then_locked: bool) -> bool:
        """Whether one is due after a complete stage.

        Parameters
        ----------
        last : it was the last one
        then_locked : what is not written now can be written after the next read only, which may take twice as long as
            the one before
        """
        since = self.since
        coming = 2 * self._read_seconds if then_locked else 0.0
        return since >= min(self._every, _WORTH) or since + coming > self._every or (last and self.worth_it)

    def mark_due(self) -> bool:
        """Whether it is time to note how far the work has come since the last checkpoint."""
        now = monotonic()
        if now - self._marked < _BETWEEN_MARKS:
            return False
        self._marked = now
        return True

    def written(self, seconds: float) -> None:
        """One was written, which took that long."""
        self.worth_it, self._writing = True, seconds
        self.tried()

    def tried(self) -> None:
        """One is written, or could not be: the next one is tried when it is due."""
        self._last = self._marked = self._panel = monotonic()
