"""The law: work on a GPU runs in two CUDA streams, and an event is recorded in the one it is asked for; a CPU has none.

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
from host_streams import HostStreams

from skillaxes.stream import device
from skillaxes.stream.device import COMPUTE, COPY, CudaStreams, device_streams

DEVICE = torch.device("cuda", 1)


class Watched:
    """``torch.cuda`` as far as CudaStreams asks for it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.current = ["compute"]

    def install(self, patch: pytest.MonkeyPatch) -> None:
        asked, current = self.asked, self.current

        class Stream:
            def __init__(self, where: torch.device) -> None:
                assert where == DEVICE
                self.name = "copy"

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


def test_copies_run_in_a_stream_of_their_own(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    streams, tensor = CudaStreams(DEVICE), watched.tensor()
    monkeypatch.setattr(
        torch, "from_dlpack", lambda foreign: watched.asked.append(("from_dlpack", watched.current[-1]))
    )
    streams.upload(tensor, tensor)
    streams.clear(tensor)
    streams.from_dlpack(object())
    streams.download(tensor)
    assert watched.asked[:3] == [("copy", "copy", True), ("zero", "copy"), ("from_dlpack", "copy")]
    assert watched.asked[3:] == [("back", "compute", "cpu", True)]


def test_events_are_recorded_in_their_stream(watched: Watched) -> None:
    streams = CudaStreams(DEVICE)
    copied, computed = streams.record_event(COPY), streams.record_event(COMPUTE)
    streams.wait_event(COMPUTE, copied)
    streams.wait_event(COPY, computed)
    streams.synchronize(copied)
    assert watched.asked == [
        ("event on", "copy"),
        ("event on", "compute"),
        ("compute", "waits for", ("copy", 0)),
        ("copy", "waits for", ("compute", 1)),
        ("host waits for", ("copy", 0)),
    ]


def test_what_could_be_allocated(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = CudaStreams(DEVICE)
    assert streams.free_bytes() == 1000 + 700 - 500, "what torch holds and does not use is free too"
    assert streams.total_bytes() == 4000 and streams.l2_bytes() == 50 << 20
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: SimpleNamespace())
    assert streams.l2_bytes() == device._TYPICAL_L2


def test_a_cpu_needs_no_streams(watched: Watched) -> None:
    assert device_streams(torch.device("cpu")) is None
    assert isinstance(device_streams(DEVICE), CudaStreams)


def test_the_host_in_the_place_of_a_gpu_runs_out_of_memory() -> None:
    streams = HostStreams(free=1000)
    held = streams.empty((600,), torch.uint8)
    with pytest.raises(torch.OutOfMemoryError, match="400 are free"):
        streams.empty((500,), torch.uint8)
    del held
    assert streams.free_bytes() == 1000
