"""Rows that lie in memory already when the read comes to them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor


class HeldRows:
    """Disjoint runs of rows, by their first one."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, Tensor]] = []

    def add(self, start: int, rows: Tensor) -> None:
        """Remember ``rows`` (n, n_features), of which ``start`` is the first one."""
        self._runs.append((start, rows))

    def sort(self) -> None:
        """To be called when all are there."""
        self._runs.sort(key=lambda run: run[0])

    def clear(self) -> None:
        """Let go of all."""
        self._runs.clear()

    def between(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) of what is held of rows ``start`` to ``stop``, in order."""
        for first, rows in self._runs:
            low, high = max(first, start), min(first + len(rows), stop)
            if low < high:
                yield low, rows[low - first : high - first]
