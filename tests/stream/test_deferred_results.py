"""The law: what a panel sends back reaches the host whole, in order, and no later than the end of the read; the host
does not wait for the panel under way. On a CPU it is there at once.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device_double import SCHEDULES, LanesSeam

from skillaxes.stream.device import COMPUTE, DEPTH, Outbox


def test_on_a_cpu_results_are_taken_at_once() -> None:
    taken: list[torch.Tensor] = []
    outbox, result = Outbox(None), torch.ones(3)
    outbox.send(taken.append, result)
    assert not outbox.deferred and taken[0] is result


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_results_come_whole_and_in_order(schedule: str) -> None:
    seam = LanesSeam(schedule)
    outbox, buffer = Outbox(seam), torch.zeros(4)
    taken: list[float] = []
    for panel in range(20):
        seam.compute(lambda panel=panel: buffer.fill_(panel))  # one buffer for all panels, as kernels have it
        outbox.send(lambda rows: taken.extend(rows.unique().tolist()), buffer)
        assert len(taken) >= panel - DEPTH
    outbox.drain()
    assert taken == list(range(20))


def test_the_host_does_not_wait_for_the_panel_under_way() -> None:
    seam = LanesSeam("copies first")
    outbox, joined = Outbox(seam), []
    join = seam.join
    seam.join = lambda mark: (joined.append(mark), join(mark))[1]  # type: ignore[method-assign]
    for panel in range(DEPTH + 3):
        outbox.send(lambda rows: None, torch.ones(1))
        latest = seam.mark(COMPUTE)
        assert latest not in joined
        assert len(joined) == max(0, panel + 1 - DEPTH)


def test_a_wait_that_is_missing_is_found() -> None:
    class Hasty(LanesSeam):
        def join(self, mark: Any) -> None:
            pass

    outbox, taken = Outbox(Hasty("copies first")), []
    outbox.send(lambda rows: taken.extend(rows.tolist()), torch.ones(1))
    outbox.drain()
    assert taken != [1.0]


def test_what_taking_raises_comes_out() -> None:
    def refuse(rows: torch.Tensor) -> None:
        raise ValueError("row 7")

    outbox = Outbox(LanesSeam("random 1"))
    outbox.send(refuse, torch.ones(1))
    with pytest.raises(ValueError, match="row 7"):
        outbox.drain()
