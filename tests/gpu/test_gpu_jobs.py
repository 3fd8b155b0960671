"""The law: what ``tests/stream`` holds of jobs with the CPU in the place of a GPU holds of the same jobs on a card.

The same directions within 1e-6 and the same lists but for ties, in every dtype and with every solver; both cache tiers;
bad rows; running out of memory; reads past host memory where kvikio is installed. And a panel, once directions are
prepared, makes the host wait for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_jobs import LAWS, OPTIONS, D, N, Place, assert_same, discover_here, make_store, same_as_on_the_cpu
from fake_gds import unchecked_store
from support.matrices import power_law, write_store

import skillaxes
from skillaxes import doctor
from skillaxes.pca.krylov import KrylovRead
from skillaxes.stream import gds
from skillaxes.stream.device import COPY, CudaStreams, device_streams
from skillaxes.stream.panels import PanelStream
from skillaxes_kernels import PanelSpec, select_backend

pytestmark = pytest.mark.gpu


@pytest.fixture
def place() -> Place:
    return Place("cuda", device_streams)


@pytest.mark.parametrize("case", OPTIONS)
def test_same_as_on_the_cpu(place: Place, tmp_path: Path, case: str) -> None:
    same_as_on_the_cpu(place, tmp_path, case)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_holds(place: Place, tmp_path: Path, law: Any) -> None:
    law(place, tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("columns", [None, (slice(0, 1000), slice(2000, 3072))])
def test_every_read_sees_every_row(tmp_path: Path, keep: float, columns: tuple[slice, ...] | None) -> None:
    """Large enough that copies take their time: kernels that are slow on purpose, and reads given up in between."""
    rows = torch.randn((20_000, 3072), generator=torch.Generator().manual_seed(0)).to(torch.float16)
    path = write_store(tmp_path / "store", rows.double().numpy(), "float16", chunk_rows=1000)
    wanted = rows if columns is None else torch.cat([rows[:, part] for part in columns], dim=1)
    row_bytes = wanted.shape[1] * 2
    stream = PanelStream(
        skillaxes.open_store(path),
        panel_rows=768,
        device=torch.device("cuda"),
        columns=columns,
        resident_bytes=int(keep * 20_736 * row_bytes),
    )
    for number in range(4):
        seen = torch.zeros((20_000, wanted.shape[1]), dtype=torch.float16, device="cuda")
        reading = stream.read()
        padding = torch.zeros((), device="cuda")
        for place, panel in enumerate(reading):
            torch.cuda._sleep(2_000_000)  # the host and the copies run ahead of the kernels
            seen[panel.start : panel.start + panel.count] = panel.rows[: panel.count]
            padding += panel.rows[panel.count :].abs().sum(dtype=torch.float32)
            if number == 1 and place == 9:
                reading.close()
        if number != 1:
            assert torch.equal(seen.cpu(), wanted), f"read {number + 1}"
        assert float(padding) == 0
    assert stream.reads == 3


def test_panels_are_copied_while_others_are_worked_on(tmp_path: Path) -> None:
    """Copies and kernels that take as long as each other: together they take much less than one after the other."""
    rows = np.zeros((16_384, 8192), np.float16)
    path = write_store(tmp_path / "store", rows, "float16", chunk_rows=1024)
    stream = PanelStream(skillaxes.open_store(path), panel_rows=2048, device=torch.device("cuda"))

    def read(cycles: int) -> None:
        for _ in stream.read():
            torch.cuda._sleep(cycles)

    def seconds(work: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    seconds(lambda: read(0))
    copies = min(seconds(lambda: read(0)) for _ in range(3))
    pace = seconds(lambda: torch.cuda._sleep(100_000_000)) / 100_000_000
    cycles = int(copies / 8 / pace)  # eight panels
    both = min(seconds(lambda: read(cycles)) for _ in range(3))
    assert both < 1.6 * copies, f"copies {copies:.4f} s, with as much work beside them {both:.4f} s"


def test_no_wait_for_the_device_within_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first panel of a read, an update launches and goes on."""
    if select_backend(PanelSpec(0, D, torch.float16, torch.device("cuda"))).name != "triton":
        pytest.skip("plain torch asks for bad rows in every panel")
    store = make_store(tmp_path, layered=True, hidden=50, layer_ids=(3, 7, 11, 15))
    original, checked = KrylovRead.update, [0]

    def update(self: KrylovRead, panel: Any) -> None:
        first = panel.start == 0
        torch.cuda.set_sync_debug_mode("default" if first else "error")
        try:
            original(self, panel)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            checked[0] += not first

    monkeypatch.setattr(KrylovRead, "update", update)
    Place("cuda", device_streams).discover(store, l2=1 << 17)
    assert checked[0] > 20


def test_what_the_streams_say_of_the_card() -> None:
    streams = CudaStreams(torch.device("cuda", torch.cuda.current_device()))
    assert 0 < streams.free_bytes() <= streams.total_bytes()
    assert 1 << 20 <= streams.l2_bytes() <= 1 << 30
    before = streams.free_bytes()
    held = streams.empty((1 << 28,), torch.uint8)
    assert before - streams.free_bytes() >= held.nbytes
    with pytest.raises(torch.OutOfMemoryError):
        streams.empty((1 << 50,), torch.uint8)
    assert streams.pinned_empty((4, 4), torch.float16).is_pinned()


@pytest.mark.skipif(gds.missing_package("cupy") is not None, reason="cupy is not installed")
def test_cupy_arrays_reach_torch_as_they_are() -> None:
    """Filled on CuPy's own stream and adopted at once: nothing but DLPack keeps the two in order."""
    import cupy

    streams = CudaStreams(torch.device("cuda", 0))
    target = streams.empty((1 << 24,), torch.float32)
    with cupy.cuda.Stream(non_blocking=True):
        for value in range(5):
            source = cupy.full(1 << 24, value, dtype=cupy.float32)
            adopted = streams.from_dlpack(source)
            assert adopted.data_ptr() == source.data.ptr
            streams.upload(target, adopted)
            streams.synchronize(streams.record_event(COPY))
            assert bool((target == value).all())


@pytest.mark.skipif(gds.missing_package("kvikio") is not None, reason="kvikio is not installed")
def test_chunks_past_host_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where kvikio would use the host (no GPUDirect here): the rows must be the same."""
    rows = power_law(N, D, exponent=0.6).astype(np.float16)
    path = unchecked_store(tmp_path / "store", rows)
    store = skillaxes.open_store(path)
    assert gds.declined(store) in (None, gds.missing())
    monkeypatch.setattr(gds, "missing", lambda: None)
    device = torch.device("cuda", 0)
    reader = gds.DirectReader(store, 0, N, CudaStreams(device).from_dlpack, device)
    for start, unit in reader.fetch_units(verify=False):
        assert unit.is_cuda and torch.equal(unit.cpu(), torch.from_numpy(rows[start : start + len(unit)]))
    place, options = Place("cuda", device_streams), {"solver": "krylov", "max_reads": 3}
    there = place.discover(path, **options)
    assert there.manifest["gpu"]["read_path"] == gds.READ_PATH
    assert_same(discover_here(path, **options), there)
    assert place.discover(path, no_gds=True, **options).topk.equals(there.topk)


def test_doctor_sees_the_card() -> None:
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["GPU"].ok and found["pinned staging"].ok
    assert found["fused kernel"].ok is not None and found["GPUDirect"].value


def test_auto_takes_the_card_and_says_so(tmp_path: Path) -> None:
    found = skillaxes.discover(make_store(tmp_path), components=4).manifest
    assert found["machine"]["device"].startswith("cuda")
    assert found["plan"]["device_reason"] == torch.cuda.get_device_name(0)
