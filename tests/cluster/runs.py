"""Wait until a job of several processes is at work, and compare the findings of two runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file


def at_work(marks: Path, panels: int, tasks: int, *, log: Callable[[], str], timeout: float = 60) -> list[int]:
    """Wait until every process has handed out ``panels`` panels (see ``slowly.py``); returns their process ids.

    Raises
    ------
    TimeoutError : they did not within ``timeout`` seconds; with the log
    """
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        files = [marks / str(rank) for rank in range(tasks)]
        if all(file.exists() for file in files):
            words = [file.read_text().split() for file in files]
            if all(int(count) >= panels for _, count, _ in words):
                return [int(pid) for pid, _, _ in words]
        time.sleep(0.05)
    raise TimeoutError(f"the processes are not at panel {panels} after {timeout:.0f} s\n{log()}")


def same_bits(first: Path, second: Path) -> None:
    """Assert that both runs have the same findings, to the last bit."""
    import zarr

    for name in ("directions.safetensors", "topk.parquet", "selection.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    scores = [zarr.open_group(run / "scores.zarr", mode="r") for run in (first, second)]
    for name, array in scores[0].arrays():
        assert np.array_equal(array[:], scores[1][name][:]), name


def same_findings(first: Path, second: Path) -> None:
    """Assert the same findings but for the order of sums: directions within 1e-10, the same rows in the lists."""
    one, two = (load_file(run / "directions.safetensors")["components"].astype(np.float64) for run in (first, second))
    cosines = (one * two).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert (1 - np.abs(cosines) <= 1e-10).all(), 1 - np.abs(cosines)
    lists = [pq.read_table(run / "topk.parquet").to_pydict() for run in (first, second)]
    assert lists[0]["row"] == lists[1]["row"]


def manifest(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "manifest.json").read_text())
    return found
