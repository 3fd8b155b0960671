"""The processes of one job and the few collectives they need.

==============  =======================================================  ===========================================
collective      what travels                                             when
==============  =======================================================  ===========================================
``sum_``        the sample's sum and its products with the block         warm start: once, and each iteration
``broadcast_``  the provisional mean, the factors of the columns         before the first read
``broadcast_``  the basis, as it is multiplied                           at the beginning of a read
``sum_``        Z with the sums of the columns; counts, squares by       at the end of a read
                layer; Gram matrices of the kept projections by group
``sum_``        the covariance matrix; the columns' sums and squares     ``covariance``, ``--scale``: end of that read
``broadcast_``  each process's directions in turn, to be merged          ``incremental``: at the end of its read
``meet``        nothing: all are there, or the job stops early           at the end of each process's panels
``share``       process 0's plan; whether it is done or starts anew;     before the first read; after each read;
                the weights of the directions                            after the last one
``gather``      numbers of left-out rows; k-lists and counts; the        at the end of the ranking
                listed rows' scores; what each process has read
==============  =======================================================  ===========================================

Projections and scores never travel: each process keeps its own rows' and writes them to their place.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from torch import Tensor, device

from skillaxes.cluster import signals as preemption

T = TypeVar("T")


class World:
    """One process of ``size``; alone by default, where every collective is nothing.

    Attributes
    ----------
    rank, size : which process of how many
    local_index : which one on its host
    here : processes of this job on this host
    handed_over : bytes that this process has handed to sums and to broadcasts so far; a ring moves up to twice that
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.local_index, self.here = 0, 1
        self.handed_over = {"sum": 0, "broadcast": 0}

    @property
    def name(self) -> str:
        """How messages call this process."""
        return f"process {self.rank}"

    @property
    def stopping(self) -> bool:
        """Whether the job is to stop early: a signal came, here or to another process."""
        return preemption.asked() is not None

    def use(self, where: device) -> None:
        """Prepare for collectives of tensors on this device."""

    def meet(self, where: str) -> bool:
        """Wait until every process is at ``where``; False when the job stops before all have come."""
        return True

    def together(self, where: str) -> None:
        """Wait until every process is at ``where``, whether the job stops or not."""

    def settle(self, where: str) -> None:
        """Wait until every process of a job that stops early is at ``where``, from wherever each has left its work.

        Those who are not there and do not live either end this process, as ever; so who returns knows that no other one
        is at work any more.
        """

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes."""

    def broadcast_(self, *tensors: Tensor, source: int = 0) -> None:
        """Replace each tensor by that of process ``source``."""

    def share(self, value: T) -> T:
        """Process 0's value."""
        return value

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks."""
        return [value]

    def when_lost(self, act: Callable[[int, str], None]) -> None:
        """What the lowest surviving process does before all end because one has failed: it is given exit code and
        message.
        """

    def leave(self, error: BaseException | None = None) -> BaseException | None:
        """Take leave of the others; ``error`` is why, and what is to be raised instead comes back."""
        return error

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        instead = self.leave(error)
        if instead is not None and instead is not error:
            raise instead from error


ALONE = World()
