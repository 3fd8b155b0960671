"""One read of a store: from the disk, from the page cache over PCIe, and from the card's memory.

Each source is timed with the panels alone and with both products of a Krylov step; with panels of half the L2, as jobs
have them, and with panels eight times as large, which shows the cost of launching kernels for small panels. Before
anything is timed, the sum of all bits that arrive is held against zarr's own reading.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.gpu.stores import Run, bits, checksum, finish, forget, reached
from bench.kernels import contestants
from bench.kernels.gpu import N_DIRECTIONS, Line, timed_line
from skillaxes.run.plan import MOST_WORKERS
from skillaxes.store import open_store
from skillaxes.stream import device as devices
from skillaxes.stream.panel import Panel
from skillaxes.stream.panels import PanelStream
from skillaxes.stream.prefetch import panel_rows_for
from skillaxes_kernels import PanelSpec, accumulate, prepare, project

SHAPE, TINY_SHAPE = (65_536, 30_720), (700, 96)  # 4 GB
DISK, PCIE, RESIDENT = SOURCES = ("from disk", "over PCIe", "in the card's memory")


def reads(run: Run) -> list[Line]:
    """Time reads from every source, by panels of two sizes."""
    rows, columns = TINY_SHAPE if run.tiny else SHAPE
    path = run.store(rows, columns)
    wanted = checksum(path)
    lines: list[Line] = []
    with reached(run.device):
        streams = devices.device_streams(run.device)
        assert streams is not None
        usual = panel_rows_for(columns * 2, streams.l2_bytes())
        for panel_rows in (usual, 8 * usual):
            for source in SOURCES:
                lines += _from(run, path, source, panel_rows, wanted)
    return lines


def _from(run: Run, path: Path, source: str, panel_rows: int, wanted: int) -> list[Line]:
    store = open_store(path)
    case = {
        "rows": store.n_rows,
        "columns": store.n_features,
        "dtype": store.dtype,
        "panel_rows": panel_rows,
        "who": f"{source}, {panel_rows:,} rows a panel",
    }
    if run.late():
        return [run.book.append("read", case, {"skipped": "out of time"})]
    filling = panel_rows * store.n_features * store.itemsize  # of the last panel
    resident_bytes = store.nbytes + filling if source == RESIDENT else 0
    try:
        stream = PanelStream(
            store, panel_rows=panel_rows, device=run.device, resident_bytes=resident_bytes, workers=MOST_WORKERS
        )
        found = sum(bits(panel.rows) for panel in stream.read())
        if found != wanted:
            run.failures += 1
            return [run.book.append("read", case, {"failed": "other values than zarr reads"})]
        on_device = stream.on_device() or {}
        if resident_bytes and on_device.get("kept_rows") != store.n_rows:
            return [run.book.append("read", case, {"skipped": "the store does not fit the card's memory"})]
        lines = []
        for what, work in (("panels alone", None), ("both products", _products(stream, panel_rows))):
            seconds = _seconds(run, stream, work, path if source == DISK else None)
            lines.append(timed_line(run, "read", {**case, "who": f"{case['who']}, {what}"}, seconds, store.nbytes))
        return lines
    except torch.OutOfMemoryError as error:
        return [run.book.append("read", case, {"skipped": str(error).splitlines()[0]})]


def _seconds(
    run: Run, stream: PanelStream, work: Callable[[Panel], Any] | None, cold: Path | None, samples: int = 3
) -> list[float]:
    """Seconds of whole reads, after one that warms up; from a cold disk there is no warm-up."""
    found = []
    for number in range(samples + (cold is None)):
        if cold is not None:
            forget(cold)
        finish(run.device)
        start = time.perf_counter()
        for panel in stream.read():
            if work is not None:
                work(panel)
        finish(run.device)
        if number or cold is not None:
            found.append(time.perf_counter() - start)
    return found


def _products(stream: PanelStream, panel_rows: int) -> Callable[[Panel], None]:
    columns, device = stream.n_columns, stream.device
    inputs = contestants.make_inputs(16, columns, N_DIRECTIONS, stream.dtype, device)
    prepared = prepare(PanelSpec(panel_rows, columns, stream.dtype, device), inputs.directions, inputs.shift)
    z = torch.zeros((columns, N_DIRECTIONS), device=device)

    def work(panel: Panel) -> None:
        seen = project(panel.rows, prepared)
        accumulate(z, seen, seen.dots)

    return work
