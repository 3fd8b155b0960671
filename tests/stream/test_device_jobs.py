"""The law: a job that goes through the device streams does what the same job does on the CPU: the same directions and
lists, bytes and reads counted, bad rows named; with rows kept on the device or not, after running out of memory, and
with copies that come as late as the waits allow.
"""

from __future__ import annotations

from pathlib import Path

import device_jobs
import pytest
from device_double import QueuedStreams
from device_jobs import LAWS, OPTIONS, Place, same_as_on_the_cpu
from host_streams import HostStreams

STREAMS = {
    "done at once": lambda device: HostStreams(free=device_jobs.ROOMY),
    "copies as late as they may": lambda device: QueuedStreams(
        "compute first", eager_compute=True, free=device_jobs.ROOMY
    ),
}


@pytest.fixture(params=STREAMS)
def place(request: pytest.FixtureRequest) -> Place:
    return Place("cpu", STREAMS[request.param])


@pytest.mark.parametrize("case", OPTIONS)
def test_same_as_on_the_cpu(place: Place, tmp_path: Path, case: str) -> None:
    same_as_on_the_cpu(place, tmp_path, case)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_holds(place: Place, tmp_path: Path, law) -> None:
    law(place, tmp_path)
