"""Small results of a panel on their way from the device to the host.

Fetching them at once would make the host wait for the panel under way, and the device then for the host. They are taken
in a few panels later instead; on a CPU they are there already and are taken in at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

from skillaxes.stream.device import COMPUTE, Mark, Seam

DEPTH = 4  # panels whose results may be under way


class Outbox:
    """Results in order.

    Parameters
    ----------
    seam : the device; None on a CPU
    """

    def __init__(self, seam: Seam | None) -> None:
        self._seam = seam
        self._under_way: deque[tuple[Mark, tuple[Tensor, ...], Callable[..., None]]] = deque()

    @property
    def deferred(self) -> bool:
        """Whether results come later, so that nothing may be asked of a panel's values on the host."""
        return self._seam is not None

    def send(self, take: Callable[..., None], *results: Tensor) -> None:
        """Call ``take`` with ``results`` on the host, after those that were sent before. What it raises comes out of
        the call in which it is called.
        """
        if self._seam is None:
            take(*results)
            return
        there = tuple(self._seam.download(result) for result in results)
        self._under_way.append((self._seam.mark(COMPUTE), there, take))
        if len(self._under_way) > DEPTH:
            self._take_one()

    def drain(self) -> None:
        """Take in all that is under way."""
        while self._under_way:
            self._take_one()

    def _take_one(self) -> None:
        assert self._seam is not None
        mark, there, take = self._under_way.popleft()
        self._seam.join(mark)
        take(*there)
