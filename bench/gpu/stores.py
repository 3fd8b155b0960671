"""Stores to read on a card: made once a run, dropped from the page cache on demand, with a checksum of all values."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import provenance
from bench.kernels.gpu import Context
from bench.panels import Rows, files_of
from bench.synthetic import Recipe, write_store

_DOUBLES = Path(__file__).resolve().parents[2] / "tests" / "stream"  # benchmarks run from a checkout


@dataclass
class Run(Context):
    """A run with a folder for its stores."""

    folder: Path = Path()

    def store(self, rows: int, columns: int) -> Path:
        """A float16 store with a power-law spectrum."""
        recipe = Recipe(rows, columns)
        path = self.folder / f"{recipe.name}.zarr"
        if not path.exists():
            write_store(recipe, path, workers=provenance.cores())
        return path


def forget(path: Path) -> None:
    """Drop a store from the page cache, so that the next read comes from the disk (on tmpfs there is none)."""
    for file in files_of(path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def checksum(path: Path) -> int:
    """The sum of all values' bits, as zarr reads them on the host."""
    total = 0
    rows = Rows(path)
    for start in range(0, rows.n_rows, 4096):
        total += bits(rows.read(start, min(start + 4096, rows.n_rows)))
    return total


def bits(values: torch.Tensor) -> int:
    """The sum of the bits of half-precision values, as int16."""
    return int(values.view(torch.int16).sum(dtype=torch.int64))


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def reached(device: torch.device) -> Iterator[None]:
    """Within it, a CPU is used as a GPU would be, to try out the flow."""
    from skillaxes.stream import device as devices

    before = devices.device_streams
    if device.type == "cpu":
        if str(_DOUBLES) not in sys.path:
            sys.path.append(str(_DOUBLES))
        from host_streams import HostStreams

        devices.device_streams = lambda _: HostStreams()
    try:
        yield
    finally:
        devices.device_streams = before
