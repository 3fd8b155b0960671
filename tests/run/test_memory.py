"""The law: a job holds no more than it was allowed, and says beforehand how much that is.

The promise is measured on a process of its own: the kernel's high-water mark of a job on a store four times the budget.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skillaxes import memory

ROOT = Path(__file__).resolve().parents[2]


MEASURED = """
import json, sys
import skillaxes
from skillaxes import memory
store, scratch, solver, layers = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
found = skillaxes.discover(store, scratch + "/run", memory=512 << 20, scratch=scratch, solver=solver,
    layers=layers, max_reads=2)
print(json.dumps({"peak": memory.peak(), "plan": found.manifest["plan"], "nbytes": found.manifest["store"]["nbytes"],
                  "reads": found.manifest["reads"], "peak_said": found.manifest["peak_memory_bytes"]}))
"""


def measured(store: Path, scratch: Path, solver: str, layers: list[int] | None = None) -> dict:
    """A job with 512 MiB in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(store), str(scratch), solver, json.dumps(layers)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def write_large(path: Path, n: int, d: int, **options: object) -> Path:
    """``n`` rows of float16: one block again and again, for the numbers play no part here."""
    from skillaxes import create_store

    block = np.random.default_rng(0).standard_normal((4096, d), np.float32)
    block *= (1.0 + np.arange(d, dtype=np.float32)) ** -0.5
    rows = block.astype(np.float16)
    with create_store(path, dtype="float16", n_rows=n, n_features=d, **options) as writer:
        for at in range(0, n, len(rows)):
            writer.append(rows[: n - at])
    return path


def assert_within_the_budget(done: dict) -> None:
    held = done["plan"]["memory"]
    assert held["total"] <= held["budget"] == 512 << 20
    assert done["peak_said"] <= done["peak"] <= 512 << 20, f"{memory.show(done['peak'])} were held"


def test_a_store_four_times_the_budget(tmp_path: Path) -> None:
    store = write_large(tmp_path / "store", 262_144, 4096, chunk_rows=1024)
    done = measured(store, tmp_path, "krylov")
    assert done["nbytes"] >= 4 * (512 << 20)
    assert done["plan"]["memory"]["spilled"] is True, "projections in memory would hide that spilling is needed"
    assert_within_the_budget(done)


@pytest.mark.parametrize("solver", ["covariance", "krylov"])
def test_many_short_rows(tmp_path: Path, solver: str) -> None:
    """Half a million rows of 64: what is kept of every row outweighs the rest."""
    store = write_large(tmp_path / "store", 500_000, 64)
    assert_within_the_budget(measured(store, tmp_path, solver))


def test_one_layer_of_many(tmp_path: Path) -> None:
    """Few columns in use of very long rows."""
    store = write_large(tmp_path / "store", 3_000, 40_960, layer_ids=list(range(40)), hidden=1024)
    assert_within_the_budget(measured(store, tmp_path, "krylov", [3]))
