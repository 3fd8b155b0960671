"""Law: all processes of one start agree on one generation, which no earlier start at the same store had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from skillaxes.cluster.rendezvous import agree_on_generation


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a store that outlives the processes, as torchrun's agents have one."""
    held = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield int(held.port)
    del held


def start(port: int, ranks: Sequence[int], size: int, seconds: float = 20) -> list[str]:
    """One start of the processes ``ranks``, each with a connection of its own."""

    def one(rank: int) -> str:
        limit = timedelta(seconds=seconds)
        client = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=limit)
        return agree_on_generation(client, rank, size, seconds)

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(one, ranks))


@pytest.mark.parametrize("size", [2, 5])
def test_each_start_has_one_generation(port: int, size: int) -> None:
    names = [start(port, range(size), size) for _ in range(3)]
    assert all(len(set(found)) == 1 for found in names)
    assert len({found[0] for found in names}) == 3


def test_a_start_that_failed_half_way_is_no_hindrance(port: int) -> None:
    with pytest.raises(RuntimeError):
        start(port, [1, 2], 3, seconds=0.5)  # process 0 never came
    with pytest.raises(RuntimeError, match="2 of 3 processes have come"):
        start(port, [0, 1], 3, seconds=1.5)
    assert len(set(start(port, range(3), 3))) == 1
