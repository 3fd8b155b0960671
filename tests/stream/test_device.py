"""The law: the seam to a GPU gives each lane its own stream and each mark an event there; on a CPU there is no seam.

Without a card this can only be watched: torch's streams and events are replaced by ones that write down what they are
asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from host_streams import HostSeam

from skillaxes.stream import device
from skillaxes.stream.device import COMPUTE, COPIES, CudaSeam, open_seam

DEVICE = torch.device("cuda", 1)


class Watched:
    """``torch.cuda`` as far as the seam asks for it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.current = ["compute"]

    def install(self, patch: pytest.MonkeyPatch) -> None:
        asked, current = self.asked, self.current

        class Stream:
            def __init__(self, where: torch.device) -> None:
                assert where == DEVICE
                self.name = "copies"

            def wait_event(self, event: Any) -> None:
                asked.append((self.name, "waits for", event.place))

        class Event:
            def record(self, stream: Any) -> None:
                self.place = (stream.name, len(asked))
                asked.append(("event on", stream.name))

            def synchronize(self) -> None:
                asked.append(("host waits for", self.place))

        compute = Stream(DEVICE)
        compute.name = "compute"

        @contextmanager
        def on(stream: Any) -> Iterator[None]:
            current.append(stream.name)
            yield
            current.pop()

        for name, value in {
            "Stream": Stream,
            "Event": Event,
            "stream": on,
            "current_stream": lambda where: compute,
            "get_device_name": lambda where: "a card",
            "memory_reserved": lambda where: 700,
            "memory_allocated": lambda where: 500,
            "mem_get_info": lambda where: (1000, 4000),
            "get_device_properties": lambda where: SimpleNamespace(L2_cache_size=50 << 20),
        }.items():
            patch.setattr(torch.cuda, name, value)

    def tensor(self) -> Any:
        """One that says on which stream it is written."""
        return SimpleNamespace(
            copy_=lambda source, non_blocking: self.asked.append(("copy", self.current[-1], non_blocking)),
            zero_=lambda: self.asked.append(("zero", self.current[-1])),
            to=lambda where, non_blocking: self.asked.append(("back", self.current[-1], where, non_blocking)),
        )


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    made = Watched()
    made.install(monkeypatch)
    return made


def test_each_lane_has_its_stream(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    seam, tensor = CudaSeam(DEVICE), watched.tensor()
    monkeypatch.setattr(torch, "from_dlpack", lambda foreign: watched.asked.append(("adopt", watched.current[-1])))
    seam.upload(tensor, tensor)
    seam.clear(tensor)
    seam.adopt(object())
    seam.download(tensor)
    assert watched.asked[:3] == [("copy", "copies", True), ("zero", "copies"), ("adopt", "copies")]
    assert watched.asked[3:] == [("back", "compute", "cpu", True)]


def test_marks_are_events_in_their_lane(watched: Watched) -> None:
    seam = CudaSeam(DEVICE)
    copied, computed = seam.mark(COPIES), seam.mark(COMPUTE)
    seam.wait(COMPUTE, copied)
    seam.wait(COPIES, computed)
    seam.join(copied)
    assert watched.asked == [
        ("event on", "copies"),
        ("event on", "compute"),
        ("compute", "waits for", ("copies", 0)),
        ("copies", "waits for", ("compute", 1)),
        ("host waits for", ("copies", 0)),
    ]


def test_what_could_be_allocated(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    seam = CudaSeam(DEVICE)
    assert seam.free_bytes() == 1000 + 700 - 500, "what torch holds and does not use is free too"
    assert seam.total_bytes() == 4000 and seam.l2_bytes() == 50 << 20
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: SimpleNamespace())
    assert seam.l2_bytes() == device._TYPICAL_L2


def test_a_cpu_needs_no_seam(watched: Watched) -> None:
    assert open_seam(torch.device("cpu")) is None
    assert isinstance(open_seam(DEVICE), CudaSeam)


def test_the_host_in_the_place_of_a_gpu_runs_out_of_memory() -> None:
    seam = HostSeam(free=1000)
    held = seam.empty((600,), torch.uint8)
    with pytest.raises(torch.OutOfMemoryError, match="400 are free"):
        seam.empty((500,), torch.uint8)
    del held
    assert seam.free_bytes() == 1000
