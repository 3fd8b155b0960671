"""The processes of one job and the collectives that it uses.

=====================  ===============================================  =============================================
collective             what is sent                                     when
=====================  ===============================================  =============================================
``all_reduce_``        the sample's sum and its products with the       warm start: once, and in each iteration
                       block
``broadcast_``         the provisional mean, the column factors         before the first read
``broadcast_``         the directions to multiply by                    start of a read
``all_reduce_``        Z and the column sums; counts and squares by     end of a read
                       layer; Gram matrices of the kept projections
                       by group
``all_reduce_``        the covariance matrix; the column sums and       ``covariance``, ``--scale``: end of that read
                       squares
``broadcast_``         each process's directions in turn, to be merged  ``incremental``: end of its read
``barrier_or_stop``    nothing: all processes arrive, or the job stops  end of each process's panels
                       early
``broadcast_object``   process 0's plan; whether it is done or starts   before the first read; after each read; after
                       anew; the weights of the directions              the last one
``all_gather_object``  numbers of left-out rows; k-lists and counts;    end of the ranking
                       scores of the listed rows; bytes read by each
                       process
=====================  ===============================================  =============================================

Projections and scores are never sent: each process keeps those of its own rows and writes them to their place.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from skillaxes.cluster import signals

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


class World:
    """One process of ``world_size``. By default there is one process, and every collective is a no-op.

    Attributes
    ----------
    rank, world_size : which process of how many
    local_rank : which process of those on its host
    local_world_size : processes of this job on this host
    bytes_sent : bytes that this process has passed to ``all_reduce_`` (key ``sum``) and ``broadcast_`` (``broadcast``)
        so far; a ring moves up to twice that for a sum
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self.local_rank, self.local_world_size = 0, 1
        self.bytes_sent = {"sum": 0, "broadcast": 0}

    @property
    def name(self) -> str:
        """The name of this process in messages."""
        return f"process {self.rank}"

    @property
    def stopping(self) -> bool:
        """Whether the job is to stop early: a signal came, here or to another process."""
        return signals.stop_reason() is not None

    def bind_device(self, device: torch.device) -> None:
        """Prepare for collectives of tensors on ``device``.

        Raises
        ------
        UsageError : the processes are on devices of different kinds
        """

    def barrier_or_stop(self, where: str) -> bool:
        """Wait until every process is at ``where``; False when the job stops before all have arrived."""
        return True

    def barrier(self, where: str) -> None:
        """Wait until every process is at ``where``, whether the job stops or not.

        Raises
        ------
        StoppedEarly : another process has left the job and cannot arrive
        """

    def barrier_after_stop(self, where: str) -> None:
        """Wait until every process of a job that stops early is at ``where``, at whatever point each left its work.

        Processes that have left the job count as arrived. The heartbeat ends this process if another one is dead. On
        return no other process is at work.
        """

    def all_reduce_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes."""

    def broadcast_(self, *tensors: Tensor, source: int = 0) -> None:
        """Replace each tensor by that of process ``source``."""

    def broadcast_object(self, value: T) -> T:
        """Process 0's value, which must be picklable."""
        return value

    def all_gather_object(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks; values must be picklable."""
        return [value]

    def on_peer_failure(self, callback: Callable[[int, str], None]) -> None:
        """Set what the lowest surviving process calls, with exit code and message, before a failure ends all."""

    def close(self, error: BaseException | None = None) -> BaseException | None:
        """Leave the job because of ``error``, or without one; returns the exception to raise in place of ``error``."""
        return error

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        instead = self.close(error)
        if instead is not None and instead is not error:
            raise instead from error


ALONE = World()
