"""The law: on a device whose streams run as badly as they may, the kernels see every row of every read, and only a wait
that is missing can change that. Each wait of the prefetcher is missed by a test when it is taken away.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from device_double import SCHEDULES, QueuedStreams
from device_laws import CASES, LAWS, collect, make_prefetcher, wanted_of
from host_streams import HostStreams

from skillaxes.stream import prefetch


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_holds(law, schedule: str) -> None:
    law(prefetch, schedule)


MUTANTS = {
    "the kernels do not wait for the copy": ("streams.wait_event(COMPUTE, coming.arrived)", "pass"),
    "a buffer is filled while kernels read it": ("self._streams.wait_event(COPY, buffer.used)", "pass"),
    "the kernels' last use is not recorded": ("coming.buffer.used = streams.record_event(COMPUTE)", "pass"),
    "the last use in a read given up is not recorded": (
        "\n" + " " * 16 + "buffer.used = streams.record_event(COMPUTE)",
        " pass",
    ),
    "units go back while they are copied": (
        "self._streams.synchronize(self._behind.popleft()[0])",
        "self._behind.popleft()",
    ),
    "units go back one too late to wait for": ("len(self._behind) > LAG", "len(self._behind) > LAG + 1"),
    "staging is gathered into while it is copied": ("self._streams.synchronize(buffer.left)", "pass"),
    "a copy out of staging is not recorded": ("buffer.left = self._streams.record_event(COPY)", "pass"),
    "a read given up leaves copies under way": ("streams.synchronize(streams.record_event(COPY))", "pass"),
    "kept rows go into memory still in use": (
        "self._streams.wait_event(COPY, self._streams.record_event(COMPUTE))",
        "pass",
    ),
    "the ring goes into memory still in use": (
        "used, left = self._streams.record_event(COMPUTE)",
        "used, left = (COMPUTE, 0)",
    ),
    "more panels under way than there are buffers": ("len(ahead) <= LOOK_AHEAD", "len(ahead) <= LOOK_AHEAD + 1"),
    "kept rows are handed back before they have come": (
        "self._streams.synchronize(self._streams.record_event(COMPUTE))",
        "pass",
    ),
    "the last panel is not filled up": ("self._streams.clear(target[filled:])", "pass"),
    "a panel has arrived before it was copied": ("target), self._streams.record_event(COPY)", "target), (COPY, 0)"),
    "the read goes on behind the kept rows too late": (
        "first, filled = self._first + number * self.panel_rows, 0",
        "first, filled = self._first + (number + bool(number)) * self.panel_rows, 0",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_error_is_found(name: str) -> None:
    old, new = MUTANTS[name]
    source = Path(prefetch.__file__).read_text()
    assert source.count(old) == 1, "the mutant does not say which line it changes"
    mutant = ModuleType(prefetch.__name__ + "_mutant")
    sys.modules[mutant.__name__] = mutant
    try:
        exec(compile(source.replace(old, new), name, "exec"), mutant.__dict__)
    finally:
        del sys.modules[mutant.__name__]
    assert any(_fails(law, mutant, schedule) for law in LAWS for schedule in SCHEDULES)


def _fails(law, module: ModuleType, schedule: str) -> bool:
    try:
        law(module, schedule)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("name", [name for name in CASES if "stay" in name])
def test_kept_rows_are_copied_once(name: str) -> None:
    case = CASES[name]
    streams = QueuedStreams("copy first")
    prefetcher, source = make_prefetcher(prefetch, case, streams)
    width = wanted_of(case).shape[1]
    kept = min(case.kept_rows, case.n_rows)
    for reads in (1, 2, 3):
        collect(prefetcher, source, streams)
        assert prefetcher.resident_rows == kept
        assert prefetcher.copied_bytes == (case.n_rows + (reads - 1) * (case.n_rows - kept)) * width * 4
    if kept == case.n_rows:
        assert source.rows_read == case.n_rows
    else:
        first = kept // case.fetch_rows * case.fetch_rows
        assert source.rows_read == case.n_rows + 2 * (case.n_rows - first)


def test_less_is_kept_where_the_device_grants_less() -> None:
    case = CASES["all rows stay"]
    row = 12 * 4
    streams = QueuedStreams("random 0", free=(3 * 8 + 60) * row)  # the ring and 60 rows
    prefetcher, source = make_prefetcher(prefetch, case, streams)
    assert 32 <= prefetcher.resident_rows <= 60
    for _ in range(2):
        seen = collect(prefetcher, source, streams)
        streams.finish()
        assert torch.equal(seen, wanted_of(case))


def test_no_room_for_the_ring_is_out_of_memory() -> None:
    case = CASES["units of two panels"]
    prefetcher, source = make_prefetcher(prefetch, case, QueuedStreams("copy first", free=2 * 8 * 12 * 4))
    with pytest.raises(torch.OutOfMemoryError, match="tried to allocate"):
        next(prefetcher.read(source, verify=False))


def test_the_host_serves_the_same_flow() -> None:
    case = CASES["some columns of some rows stay"]
    streams = HostStreams()
    prefetcher, source = make_prefetcher(prefetch, case, streams)
    for _ in range(2):
        seen = torch.cat([panel.rows[: panel.count].clone() for panel in prefetcher.read(source, verify=False)])
        assert torch.equal(seen, wanted_of(case))
