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
from hypothesis import given
from hypothesis import strategies as st

from skillaxes import memory
from skillaxes.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 << 20),
        ("2GiB", 2 << 30),
        ("2G", 2 * 10**9),
        ("2gb", 2 * 10**9),
        (" 1.5 GiB ", 3 << 29),
        ("600000000", 600_000_000),
        ("1TiB", 1 << 40),
        ("100k", 100_000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "2 GiB extra", "1e9", "two", "2Ei", "1,5G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        memory.parse_size(text)


@given(st.integers(0, 1 << 50))
def test_a_size_for_people(size: int) -> None:
    """What is shown can be read back, within its rounding."""
    again = memory.parse_size(memory.show(size))
    assert abs(again - size) <= 0.05 * size + 1


def test_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "granted", lambda: 10 << 30)
    assert memory.budget(None) == int(0.6 * (10 << 30))
    assert memory.budget(None, 4) == int(0.6 * (10 << 30) / 4), "processes on one host share"
    assert memory.budget(None, 1000) == memory.LEAST
    assert memory.budget(600 << 20) == 600 << 20
    with pytest.raises(UsageError, match="511 MiB"):
        memory.budget(511 << 20)


def test_what_is_granted_is_the_tightest_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"no": "max\n", "tight": f"{3 << 30}\n", "loose": f"{900 << 30}\n", "absurd": "9223372036854771712\n"}
    files = []
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
        files.append(tmp_path / name)
    monkeypatch.setattr(memory, "_cgroup_files", lambda: [*files, tmp_path / "missing"])
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.granted() == min(3 << 30, physical)


def test_what_is_held() -> None:
    assert 0 < memory.resident() <= memory.peak()
    before = memory.resident()
    block = np.ones(1 << 28, np.uint8)
    assert memory.peak() >= memory.resident() >= before + block.nbytes // 2


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
