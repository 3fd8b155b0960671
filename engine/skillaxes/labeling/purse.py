"""Money under a hard limit: the worst case of a request is set aside before it is sent."""

from __future__ import annotations

from threading import Condition


class LimitReached(Exception):
    """The worst case of a request does not fit into what is left. Nothing was sent."""


class Purse:
    """Counts what was spent and what may yet be.

    Parameters
    ----------
    limit : most dollars; None for no limit
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = limit
        self._spent = 0.0
        self._reserved = 0.0
        self._under_way = 0
        self._refused = False
        self._changed = Condition()

    @property
    def spent(self) -> float:
        """Dollars spent so far; what is under way does not count yet."""
        return self._spent

    @property
    def refused(self) -> bool:
        """Whether a request was not sent for lack of money."""
        return self._refused

    def reserve(self, worst: float) -> None:
        """Set the worst case of a request aside, once what is under way leaves room for it.

        Raises
        ------
        LimitReached : it would not fit even if nothing else were under way
        """
        with self._changed:
            while self._limit is not None and self._spent + self._reserved + worst > self._limit:
                if not self._under_way:
                    self._refused = True
                    raise LimitReached(
                        f"a request may cost up to ${worst:.4f}, and ${self._spent:.4f} of ${self._limit:g} is spent"
                    )
                self._changed.wait()
            self._reserved += worst
            self._under_way += 1

    def settle(self, worst: float, actual: float) -> None:
        """A reserved request came to ``actual`` dollars."""
        with self._changed:
            self._under_way -= 1
            self._reserved = self._reserved - worst if self._under_way else 0.0
            self._spent += actual
            self._changed.notify_all()
