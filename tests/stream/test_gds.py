"""The law: the read path past host memory gives the rows that the one through it gives. It is taken exactly where
nothing has to be decoded or checked and GPUDirect is at work, and says why not elsewhere.

Neither CuPy nor kvikio nor a GPU is here: the control flow runs over fakes of the two (and zarr's own GPU buffers);
what they do on a card is for ``tests/gpu``.
"""

from __future__ import annotations

from pathlib import Path

import fake_gds
import numpy as np
import pytest
import torch
from device_double import QueuedStreams
from device_jobs import D, N, Place, assert_same, discover_here, make_store
from fake_gds import unchecked_store
from host_streams import HostStreams
from support.matrices import power_law

from skillaxes import doctor
from skillaxes.errors import StoreError
from skillaxes.store import open_store
from skillaxes.stream import gds


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return fake_gds.install(monkeypatch)


@pytest.fixture
def rows() -> np.ndarray:
    return power_law(N, D, exponent=0.6).astype(np.float16)


@pytest.mark.parametrize("layout", [{}, {"hidden": 50}, {"chunk_rows": 5000}, {"chunk_rows": 1000}])
@pytest.mark.parametrize(("first", "last"), [(0, N), (150, 2900)])
def test_units_are_the_rows(
    tmp_path: Path, rows: np.ndarray, fetched: list[str], layout: dict[str, int], first: int, last: int
) -> None:
    store = open_store(unchecked_store(tmp_path / "store", rows, **layout))
    assert gds.declined(store) is None
    reader = gds.DirectReader(store, first, last, HostStreams().from_dlpack)
    for from_row in (first, first + 1000):
        before, at = reader.bytes_read, None
        for start, unit in reader.fetch_units(verify=False, from_row=from_row):
            assert at in (None, start)
            assert torch.equal(unit, torch.from_numpy(rows[start : start + len(unit)]))
            at = start + len(unit)
        assert at == last
        unit_start = max(from_row // store.chunk_rows * store.chunk_rows, first)
        assert reader.bytes_read - before == (last - unit_start) * D * 2
    assert fetched


def test_bfloat16_keeps_its_bits(tmp_path: Path, rows: np.ndarray, fetched: list[str]) -> None:
    import zarr

    from skillaxes.store.bfloat16 import BFloat16, bfloat16_known

    bits = torch.from_numpy(rows).to(torch.bfloat16)
    with bfloat16_known():
        options = {"chunks": (97, D), "compressors": None, "fill_value": np.uint16(0)}
        array = zarr.create_array(tmp_path / "store", shape=(N, D), dtype=BFloat16(), **options)
    array[...] = bits.view(torch.uint16).numpy()
    reader = gds.DirectReader(open_store(tmp_path / "store"), 0, N, HostStreams().from_dlpack)
    found = torch.cat([unit for _, unit in reader.fetch_units(verify=False)])
    assert found.dtype == torch.bfloat16 and torch.equal(found, bits)


def test_every_thread_allocates_on_the_card_of_the_job(tmp_path: Path, rows: np.ndarray, fetched: list[str]) -> None:
    """CuPy's current device is the thread's: where none was set, chunks go to the first card."""
    import cupy

    store = open_store(unchecked_store(tmp_path / "store", rows))
    for device, expected in ((torch.device("cuda", 1), {1}), (None, {0})):
        cupy.cards.allocated.clear()
        found = list(gds.DirectReader(store, 0, N, HostStreams().from_dlpack, device).fetch_units(verify=False))
        assert sum(len(unit) for _, unit in found) == N
        assert len(cupy.cards.allocated) >= 2 * len(found) and set(cupy.cards.allocated) == expected


@pytest.mark.parametrize("schedule", ["compute first", "done at once"])
def test_a_job_takes_the_path_and_finds_the_same(
    tmp_path: Path, rows: np.ndarray, fetched: list[str], schedule: str
) -> None:
    store = unchecked_store(tmp_path / "store", rows)
    queued = schedule == "compute first"
    place = Place("cpu", lambda device: QueuedStreams(schedule, eager_compute=True) if queued else HostStreams())
    options = {"solver": "krylov", "tolerance": 1e-9, "max_reads": 3}
    there = place.discover(store, **options)
    assert there.manifest["gpu"]["read_path"] == there.manifest["plan"]["read_path"] == gds.READ_PATH
    assert there.manifest["plan"]["gds"] == "taken"
    chunks = -(-N // 97)
    assert len(fetched) == chunks, "each chunk once: the rows stay on the device"
    assert N * D * 2 <= there.manifest["bytes_read"] <= 2 * N * D * 2, "sampled rows came through the host"
    assert_same(discover_here(store, **options), there)
    del fetched[:]
    forbidden = place.discover(store, no_gds=True, **options)
    assert not fetched and forbidden.manifest["gpu"]["read_path"] == "plain files"
    assert forbidden.manifest["plan"]["gds"] == "not taken: forbidden by --no-gds"
    assert forbidden.topk.equals(there.topk)


def test_declined_where_something_is_decoded_or_checked(tmp_path: Path, rows: np.ndarray, fetched: list[str]) -> None:
    assert "checksums" in str(gds.declined(open_store(make_store(tmp_path / "checked"))))
    assert "zstd" in str(gds.declined(open_store(make_store(tmp_path / "compressed", compressed=True))))
    import zarr

    split = zarr.create_array(tmp_path / "split", shape=(N, D), chunks=(97, 50), dtype="float16", compressors=None)
    split[...] = rows
    assert "not as wide" in str(gds.declined(open_store(tmp_path / "split")))
    sharded = open_store(unchecked_store(tmp_path / "sharded", rows, sharded=True))
    assert "shards" in str(gds.declined(sharded))
    with pytest.raises(AssertionError):  # zarr's own: where it no longer raises, the path can be widened
        list(gds.DirectReader(sharded, 0, N, HostStreams().from_dlpack).fetch_units(verify=False))


def test_declined_where_the_bounce_would_remain(
    tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(unchecked_store(tmp_path / "store", rows))
    if gds.missing_package("cupy") or gds.missing_package("kvikio"):
        assert gds.declined(store) in ("cupy is not installed", "kvikio is not installed")
    fake_gds.install(monkeypatch, available=False)
    assert "GPUDirect Storage is not set up" in str(gds.declined(store))
    monkeypatch.delattr("kvikio.cufile_driver.get")
    assert "kvikio does not start here" in str(gds.declined(store))


def test_what_fails_is_typed(tmp_path: Path, rows: np.ndarray, fetched: list[str]) -> None:
    path = unchecked_store(tmp_path / "store", rows)
    reader = gds.DirectReader(open_store(path), 0, N, HostStreams().from_dlpack)

    class Broken:
        error: Exception = ValueError("cut off")

        @property
        def async_array(self) -> Broken:
            return self

        async def getitem(self, *_: object, **__: object) -> None:
            raise self.error

    reader._array = Broken()
    with pytest.raises(StoreError, match=r"rows 0 to 96 of .*cut off.*--no-gds reads them through the host"):
        next(reader.fetch_units(verify=False))
    reader._array.error = MemoryError("out of memory allocating 1,024 bytes")
    with pytest.raises(torch.OutOfMemoryError, match="1,024 bytes"):
        next(reader.fetch_units(verify=False))


def test_missing_chunks_are_refused(tmp_path: Path, rows: np.ndarray, fetched: list[str]) -> None:
    path = unchecked_store(tmp_path / "store", rows)
    (path / "c" / "3" / "0").unlink()
    with pytest.raises(StoreError, match=r"chunk 3 .* is not stored"):
        Place("cpu", lambda device: HostStreams()).discover(path)


def test_doctor_tells_of_both_halves_of_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def found_paths() -> dict[str, tuple[bool | None, str]]:
        return {found.name: (found.ok, found.value) for found in doctor._gpudirect(None)}

    fake_gds.install(monkeypatch)
    assert all(ok for ok, _ in found_paths().values())
    assert "--no-gds" in found_paths()["GPUDirect"][1]
    monkeypatch.setattr(gds, "find_spec", lambda name: None)
    assert found_paths() == {
        "CuPy read": (False, "cupy is not installed"),
        "GPUDirect": (False, "cupy is not installed"),
    }
    said = {found.name: found for found in doctor._gpudirect("no usable GPU, see above")}
    assert not said["GPUDirect"].ok and said["GPUDirect"].value.startswith("no usable GPU")
