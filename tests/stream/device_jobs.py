"""What holds of whole jobs on a device, as functions of how the device is reached: a GPU, or the CPU in its place.

The same laws run in CI with the CPU in the place of a GPU and, marked ``gpu``, on a card.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.matrices import direction_errors, listed, power_law, rounded, write_store
from support.stopping import Listening, differing, stopped, written

import skillaxes
from skillaxes.cluster.world import World
from skillaxes.errors import BadRowsError, DeviceMemoryError
from skillaxes.pca.krylov import KrylovRead
from skillaxes.run_folder.schema import SIDES
from skillaxes.stream import device as devices
from skillaxes.stream.device import DeviceStreams

N, D, K = 3000, 200, 6
CHUNK = 97
ROOMY = 8 << 30
L2 = 1 << 19  # panels of 640 rows of float16, 256 of float32


class Limited:
    """Device streams with less memory than there is, and another L2: for meeting limits without filling a card."""

    def __init__(self, streams: DeviceStreams, free: int, l2: int) -> None:
        self._streams, self._free, self._l2 = streams, free, l2
        self._held: list[tuple[Any, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streams, name)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        if size > self.free_bytes():
            raise torch.OutOfMemoryError(f"tried to allocate {size} bytes, {self.free_bytes()} are free")
        made = self._streams.empty(shape, dtype)
        self._held.append((weakref.ref(made), size))
        return made

    def free_bytes(self) -> int:
        return self._free - sum(size for there, size in self._held if there() is not None)

    def total_bytes(self) -> int:
        return self._free

    def l2_bytes(self) -> int:
        return self._l2


class Place:
    """How jobs reach a device.

    Parameters
    ----------
    device : what ``--device`` says
    device_streams : how the device is reached
    """

    def __init__(self, device: str, device_streams: Callable[[torch.device], Any]) -> None:
        self.device, self._open = device, device_streams

    def discover(self, store: Path, *arguments: Any, free: int = ROOMY, l2: int = L2, **options: Any) -> Any:
        """A job there, with that much free memory and L2."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(devices, "device_streams", lambda device: Limited(self._open(device), free, l2))
            return skillaxes.discover(store, *arguments, device=self.device, **{"components": K, **options})


def discover_here(store: Path, **options: Any) -> Any:
    """The same job on the CPU."""
    return skillaxes.discover(store, device="cpu", **{"components": K, **options})


def make_store(folder: Path, dtype: str = "float16", **options: Any) -> Path:
    rows = rounded(power_law(N, D, exponent=0.6), dtype)
    return write_store(folder / "store", rows, dtype, chunk_rows=CHUNK, **options)


def assert_same(here: Any, there: Any) -> None:
    """The same directions to 1e-6, and the same lists but for rows whose cosines are as good as equal."""
    assert direction_errors(there.directions.components, here.directions.components.astype(np.float64)).max() <= 1e-6
    np.testing.assert_allclose(there.directions.explained_variance, here.directions.explained_variance, rtol=1e-4)
    np.testing.assert_allclose(there.directions.mean, here.directions.mean, rtol=1e-5, atol=1e-5)
    assert there.manifest["rows"] == here.manifest["rows"]
    for direction in range(len(here.directions.components)):
        for side in SIDES:
            ours, theirs = (listed(found.topk, direction, side) for found in (here, there))
            cosines = [_cosines(found, direction, side) for found in (here, there)]
            np.testing.assert_allclose(cosines[0], cosines[1], atol=2e-6)
            ties = np.diff(np.sort(cosines[0])).min(initial=1) <= 4e-6
            assert set(ours) == set(theirs) or ties, f"direction {direction}, {side}"


def _cosines(found: Any, direction: int, side: str) -> list[float]:
    table = found.topk.to_pydict()
    rows = zip(table["cosine"], table["direction"], table["side"], strict=True)
    return [cosine for cosine, place, end in rows if (place, end) == (direction, side)]


OPTIONS: dict[str, dict[str, Any]] = {
    "float16": {},
    "bfloat16": {"dtype": "bfloat16"},
    "float32": {"dtype": "float32"},
    "float64": {"dtype": "float64"},
    "covariance": {"solver": "covariance"},
    "incremental": {"solver": "incremental"},
    "columns of equal size": {"scale": "column-std"},
    "layers": {"layout": {"layered": True, "hidden": 50, "layer_ids": (3, 7, 11, 15)}},
    "some layers": {"layout": {"hidden": 50, "layer_ids": (3, 7, 11, 15)}, "layers": (3, 11)},
    "compressed": {"layout": {"compressed": True}},
}


def same_as_on_the_cpu(place: Place, folder: Path, case: str) -> None:
    options = dict(OPTIONS[case])
    store = make_store(folder, options.pop("dtype", "float16"), **options.pop("layout", {}))
    here, there = discover_here(store, **options), place.discover(store, **options)
    assert here.manifest.get("gpu") is None and here.manifest["plan"]["gpu"] is None
    assert there.manifest["gpu"]["kept_rows"] == N
    assert there.manifest["machine"]["device"].startswith(place.device)
    if case == "incremental":  # one read: exact to its residuals only
        errors = direction_errors(there.directions.components, here.directions.components.astype(np.float64))
        assert errors.max() <= 1e-3
    else:
        assert_same(here, there)


def bad_rows(place: Place, folder: Path) -> None:
    """Named, or left out, as on the CPU; and rows much shorter than the mean have the norms that they have."""
    rows = rounded(power_law(N, D, exponent=0.6), "float16")
    rows[[5, 700, 2999]] = np.nan
    rows[1234] *= 1e-3
    rows[2500] = 0
    store = write_store(folder / "bad", rows, "float16", chunk_rows=CHUNK, hidden=50, layer_ids=(3, 7, 11, 15))
    with pytest.raises(BadRowsError, match="NaN or infinity in row 5") as caught:
        place.discover(store)
    assert caught.value.rows[0] == 5
    here = discover_here(store, bad_rows="skip")
    there = place.discover(store, bad_rows="skip")
    assert there.manifest["rows"]["bad"] == [5, 700, 2999] and there.manifest["rows"]["zero"] == 1
    assert_same(here, there)
    np.testing.assert_allclose(
        there.manifest["layers"]["variance_share"], here.manifest["layers"]["variance_share"], rtol=1e-5
    )


def rows_are_kept(place: Place, folder: Path) -> None:
    """A store that fits the device is read once and copied once."""
    store, row = make_store(folder, "float32"), D * 4
    found = place.discover(store, solver="krylov", tolerance=1e-9, max_reads=3).manifest
    assert found["plan"]["gpu"]["kept_rows"] == found["gpu"]["kept_rows"] == N
    assert found["reads"] == 3
    assert found["bytes_read"] == N * row == found["plan"]["bytes_to_read"], "sampled rows included"
    assert found["gpu"]["copied_bytes"] == N * row
    fetched = {stage["name"]: stage["bytes"] for stage in found["stages"]}
    assert fetched["read 1"] + fetched["sample"] == N * row
    assert fetched["read 2"] == fetched["read 3"] == 0


def some_rows_are_kept(place: Place, folder: Path) -> None:
    """Of a store that does not fit, the first rows stay; the outcome is the same to the last bit."""
    store, row = make_store(folder, "float32"), D * 4
    options = {"solver": "krylov", "tolerance": 1e-9, "max_reads": 3}
    whole = place.discover(store, **options)
    planned, panel_rows = whole.manifest["plan"]["gpu"], whole.manifest["plan"]["panel_rows"]
    free = (planned["working"] + planned["ring"] + N * row // 2) * 4 // 3 + 3  # a quarter of a small card is reserve
    part = place.discover(store, free=free, **options)
    kept = part.manifest["gpu"]["kept_rows"]
    assert part.manifest["plan"]["panel_rows"] == panel_rows, "what is free changes no panel"
    assert abs(kept - N // 2) <= panel_rows and kept == part.manifest["plan"]["gpu"]["kept_rows"]
    assert part.manifest["gpu"]["copied_bytes"] == (N + 2 * (N - kept)) * row
    once = N * row + 2 * (N - kept) * row
    assert once <= part.manifest["bytes_read"] <= once + 2 * CHUNK * row, "the unit at the border is fetched whole"
    assert part.manifest["plan"]["bytes_to_read"] == pytest.approx(once, rel=0.01)
    np.testing.assert_array_equal(part.directions.components, whole.directions.components)
    assert part.topk.equals(whole.topk)


def out_of_memory_means_smaller_panels(place: Place, folder: Path) -> None:
    """What runs out of memory in the middle of a read is begun anew with smaller panels, with the same outcome."""
    store = make_store(folder)
    plain = place.discover(store)
    assert plain.manifest["gpu"]["out_of_memory"] == []
    large = plain.manifest["plan"]["panel_rows"]
    original, notes = KrylovRead.update, Listening()

    def update(self: KrylovRead, panel: Any) -> None:
        if len(panel.rows) > large // 4 and panel.start > N // 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        original(self, panel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KrylovRead, "update", update)
        tight = place.discover(store, folder / "run", progress=notes)
    shortages = tight.manifest["gpu"]["out_of_memory"]
    assert [shortage["panel_rows"] for shortage in shortages] == [large, large // 2]
    assert tight.manifest["plan"]["panel_rows"] == tight.manifest["gpu"]["panel_rows"] == large // 4
    assert tight.manifest["gpu"]["kept_rows"] <= N // 4
    said = [one["text"] for one in tight.manifest["diagnostics"] if one["kind"] == "gpu_memory"]
    assert len(said) == 1 and f"begun anew with panels of {large // 4:,} rows" in said[0] and said[0] in notes.notes
    assert [stage["status"] for stage in tight.manifest["stages"]].count("given up") >= 2
    assert tight.manifest["reads"] > plain.manifest["reads"] + 1, "what was read in vain counts"
    assert tight.manifest["bytes_read"] > plain.manifest["bytes_read"]
    assert_same(plain, tight)


def no_room_at_all_is_an_error(place: Place, folder: Path) -> None:
    with pytest.raises(DeviceMemoryError, match=r"no room for panels of 64 rows: tried to allocate .*--device cpu"):
        place.discover(make_store(folder), free=1000)


def out_of_memory_among_several_is_an_error(place: Place, folder: Path) -> None:
    """The others are somewhere else in the read: one process alone begins nothing anew."""
    store, calls, original = make_store(folder), [], KrylovRead.update

    def update(self: KrylovRead, panel: Any) -> None:
        calls.append(panel.start)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        original(self, panel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KrylovRead, "update", update)
        with pytest.raises(DeviceMemoryError, match=r"20\.00 MiB\); 2 processes cannot .* --device cpu$") as caught:
            place.discover(store, folder / "run", world=World(0, 2), solver="krylov")
    assert "\n" not in str(caught.value) and len(calls) == 2


def stopped_jobs_go_on(place: Place, folder: Path) -> None:
    """With the bytes of an undisturbed job, whatever rows were kept on the device before and are kept now."""
    store, options = make_store(folder), {"solver": "krylov", "l2": 1 << 17}
    planned = place.discover(store, folder / "undisturbed", **options).manifest["plan"]["gpu"]

    def free(share: float) -> int:
        return (planned["working"] + planned["ring"] + int(share * N * D * 2)) * 4 // 3 + 3

    cases = [("read 1", 3, 1.0, 1.0), ("read 1", 9, 1.0, 0.5), ("read 2", 2, 0.5, 1.0), ("read 2", 9, 0.0, 0.5)]
    for number, (read, panels, before, after) in enumerate(cases):
        run_dir = folder / f"run-{number}"
        stopped(partial(place.discover, free=free(before)), store, run_dir, read, panels, **options)
        progress = Listening()
        found = place.discover(store, run_dir, free=free(after), progress=progress, **options)
        assert found.manifest["plan"]["gpu"]["kept_rows"] == pytest.approx(after * N, abs=300)
        assert progress.seen[0] == read and any("going on at row" in note for note in progress.notes)
        assert not differing(run_dir, written(folder / "undisturbed"))


def out_of_memory_goes_on_from_the_last_read(place: Place, folder: Path) -> None:
    """What is on record is not done again; the panels of what follows are smaller."""
    store, original = make_store(folder), KrylovRead.update
    plain = place.discover(store, tolerance=1e-9, max_reads=3, solver="krylov")
    large = plain.manifest["plan"]["panel_rows"]

    def update(self: KrylovRead, panel: Any) -> None:
        if len(panel.rows) > large // 2 and panel.start > N // 2 and self.reads_before == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        original(self, panel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KrylovRead, "update", update)
        progress = Listening()
        found = place.discover(
            store, folder / "run", tolerance=1e-9, max_reads=3, solver="krylov", checkpoint_every=0, progress=progress
        )
    assert [name for name in progress.seen if "read" in name] == ["read 1", "read 2", "read 2", "read 3"]
    assert len(found.manifest["gpu"]["out_of_memory"]) == 1
    assert [stage["status"] for stage in found.manifest["stages"]] == ["done"] * len(found.manifest["stages"])
    assert_same(plain, found)


LAWS = (
    bad_rows,
    rows_are_kept,
    some_rows_are_kept,
    out_of_memory_means_smaller_panels,
    no_room_at_all_is_an_error,
    out_of_memory_among_several_is_an_error,
    stopped_jobs_go_on,
    out_of_memory_goes_on_from_the_last_read,
)
