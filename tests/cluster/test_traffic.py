"""Law: what a read hands over is what its basis says, to the byte; a forecast follows from it and from stated rates."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster.groups import run_well
from support.matrices import power_law

from skillaxes import plan
from skillaxes.errors import UsageError
from skillaxes.run.forecast import (
    STATED,
    Rates,
    Shape,
    every_read,
    forecast,
    held_against,
    limits,
    rates_from,
    read_bytes,
)

LARGE = Shape(10_000_000, 122_880, 2, 273, 48, reads=3, n_layers=30, on_gpu=True)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    random = np.random.default_rng(3)
    return (random.normal(size=(900, 40)) * np.arange(1, 41) ** -0.8) @ random.normal(size=(40, 1200)) + 2


@pytest.mark.parametrize(
    ("size", "threads", "options"),
    [
        (2, 1, []),
        pytest.param(4, 1, ["--components", "3"], marks=pytest.mark.cluster),
        pytest.param(2, 1, ["--solver", "covariance"], marks=pytest.mark.cluster),
        (2, 2, ["--scale", "column-std"]),
    ],
)
def test_measured_is_predicted(
    make_store: Callable[..., Path],
    rows: np.ndarray,
    tmp_path: Path,
    cpu_backend: str,
    size: int,
    threads: int,
    options: list[str],
) -> None:
    """In every read of the job; and before it begins too, but for reads that decide on a smaller basis."""
    store = make_store(rows, chunk_rows=50, layer_ids=[1, 2, 3], hidden=400)
    run_well(size, "discover", store, tmp_path / "run", *options, env={"OMP_NUM_THREADS": str(threads)})
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["plan"]["products"].split(";")[0] == cpu_backend
    assert [process["threads"] for process in manifest["processes"]] == [threads] * size
    as_predicted(manifest)


@pytest.mark.usefixtures("cpu_backend")
@pytest.mark.parametrize("decided", ["a basis that begins anew", "a narrow block"])
def test_what_the_numbers_decide(make_store: Callable[..., Path], tmp_path: Path, decided: str) -> None:
    """Two directions far above the others blur these until the basis begins anew; without them the end is narrow."""
    anew = decided == "a basis that begins anew"
    made = power_law(1500, 300, exponent=0.6, leading=(100, 66)) if anew else power_law(2200, 1400, exponent=0.6)
    store = make_store(made, chunk_rows=100, dtype="float32" if anew else "float16")
    run_well(2, "discover", store, tmp_path / "run", "--solver", "krylov")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    bases = [stage["basis"] for stage in manifest["stages"] if "basis" in stage]
    assert any(len(after) <= len(before) for before, after in itertools.pairwise(bases)) is anew
    assert any(basis[-1] < basis[0] for basis in bases) is not anew
    as_predicted(manifest)


def as_predicted(manifest: dict[str, Any]) -> None:
    reads = held_against(manifest)
    assert [read["name"] for read in reads] == [one["name"] for one in manifest["stages"] if "basis" in one] != []
    assert [read["measured"] for read in reads] == [read["predicted"] for read in reads]
    stages = [stage for stage in manifest["stages"] if stage["reads"] == 1]
    foretold = manifest["plan"]["outlook"]["bytes_sent"]
    block, number = manifest["plan"]["block_size"], 0
    for stage, expected in zip(stages, foretold, strict=False):
        number += "basis" in stage
        if stage.get("basis", []) == [block] * number:
            assert stage["bytes_sent"] == expected
        else:
            assert all(stage["bytes_sent"][kind] <= expected[kind] for kind in expected)
    assert number >= 1 and stages[0]["bytes_sent"] == foretold[0]


def test_given_directions(make_store: Callable[..., Path], rows: np.ndarray, tmp_path: Path) -> None:
    store = make_store(rows, chunk_rows=50)
    np.save(tmp_path / "given.npy", np.random.default_rng(0).normal(size=(4, 1200)))
    run_well(2, "apply", store, tmp_path / "run", "--directions", tmp_path / "given.npy")
    (read,) = held_against(json.loads((tmp_path / "run" / "manifest.json").read_text()))
    assert read["measured"] == read["predicted"]


def test_the_plan_of_a_job_that_is_not_run(make_store: Callable[..., Path], rows: np.ndarray) -> None:
    store = make_store(rows, chunk_rows=50)
    seen = plan(store, world_size=4, solver="krylov").outlook
    assert seen is not None and seen["processes"] == 4
    assert seen["bytes_sent"] == every_read(Shape(900, 1200, 4, 50, 48))
    assert seen["total"] < seen["alone"]
    assert plan(store).outlook is None
    with pytest.raises(UsageError, match="20 processes for a store of 18 chunks"):
        plan(store, world_size=20)


def test_more_processes_help_until_something_is_the_limit() -> None:
    totals = [forecast(LARGE, size).total for size in (1, 2, 4, 8, 16, 32)]
    assert all(after < before for before, after in itertools.pairwise(totals))
    found = limits(LARGE)
    assert found["storage"] == 32  # 32 x 2.5 GB/s is more than the 50 GB/s of the file system
    assert limits(LARGE, Rates(storage_total=1e15))["storage"] is None
    assert limits(LARGE, Rates(network=1e4))["traffic"] == 2
    few = Shape(1000, 4096, 2, 100, 48)
    assert limits(few)["stragglers"] == 4  # 10 chunks: 3 of them are a fifth more than 2.5


def test_rates_are_stated_by_name() -> None:
    assert rates_from(["network=25e9", "storage-total=1e12"]) == Rates(network=25e9, storage_total=1e12)
    assert rates_from([]) == STATED
    for text in ("network", "speed=3", "network=-1", "network=x"):
        with pytest.raises(UsageError, match="--rate"):
            rates_from([text])


def test_a_ring_moves_at_most_twice_what_is_handed_over() -> None:
    handed = read_bytes(LARGE, 3, [48, 48, 48])
    slow = Rates(network=1e9, latency=0.0)
    for size in (2, 8, 64):
        assert forecast(LARGE, size, slow).traffic <= (2 * handed["sum"] + handed["broadcast"]) / 1e9
