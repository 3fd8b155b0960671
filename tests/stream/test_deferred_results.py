"""The law: what a panel sends back reaches the host whole, in order, and no later than the end of the read; the host
does not wait for the panel under way. On a CPU it is there at once.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device_double import SCHEDULES, QueuedStreams

from skillaxes.stream.device import COMPUTE, DEPTH, DeferredResults


def test_on_a_cpu_results_are_taken_at_once() -> None:
    taken: list[torch.Tensor] = []
    results, result = DeferredResults(None), torch.ones(3)
    results.submit(taken.append, result)
    assert not results.deferred and taken[0] is result


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_results_come_whole_and_in_order(schedule: str) -> None:
    streams = QueuedStreams(schedule)
    results, buffer = DeferredResults(streams), torch.zeros(4)
    taken: list[float] = []
    for panel in range(20):
        streams.compute(lambda panel=panel: buffer.fill_(panel))  # one buffer for all panels, as kernels have it
        results.submit(lambda rows: taken.extend(rows.unique().tolist()), buffer)
        assert len(taken) >= panel - DEPTH
    results.flush()
    assert taken == list(range(20))


def test_the_host_does_not_wait_for_the_panel_under_way() -> None:
    streams = QueuedStreams("copy first")
    results, awaited = DeferredResults(streams), []
    synchronize = streams.synchronize
    streams.synchronize = lambda event: (awaited.append(event), synchronize(event))[1]  # type: ignore[method-assign]
    for panel in range(DEPTH + 3):
        results.submit(lambda rows: None, torch.ones(1))
        latest = streams.record_event(COMPUTE)
        assert latest not in awaited
        assert len(awaited) == max(0, panel + 1 - DEPTH)


def test_a_wait_that_is_missing_is_found() -> None:
    class Hasty(QueuedStreams):
        def synchronize(self, event: Any) -> None:
            pass

    results, taken = DeferredResults(Hasty("copy first")), []
    results.submit(lambda rows: taken.extend(rows.tolist()), torch.ones(1))
    results.flush()
    assert taken != [1.0]


def test_what_taking_raises_comes_out() -> None:
    def refuse(rows: torch.Tensor) -> None:
        raise ValueError("row 7")

    results = DeferredResults(QueuedStreams("random 1"))
    results.submit(refuse, torch.ones(1))
    with pytest.raises(ValueError, match="row 7"):
        results.flush()
