"""The processes of one job and the few collectives they need.

=================  =============================================  ==========================
collective         what travels                                   when
=================  =============================================  ==========================
``sum_``           Z, sums of columns, Gram matrices, counts      at the end of a read
``broadcast_``     the basis, the provisional mean                at the beginning of a read
``gather``         top-k lists, counts of bad and zero rows       at the end of the ranking
=================  =============================================  ==========================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process of ``size``; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def stopping(self) -> bool:
        """Whether the job is to stop early: a signal came, here or to another process."""
        return False

    def meet(self, where: str) -> bool:
        """Wait until every process is at ``where``; False when the job stops before all have come."""
        return True

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes."""

    def broadcast_(self, *tensors: Tensor) -> None:
        """Replace each tensor by process 0's."""

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks."""
        return [value]


ALONE = World()
