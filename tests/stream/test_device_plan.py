"""The law: the size of a panel follows from the card's L2 and the matrix alone; what stays on the card fits what is
free; a shortage halves both until there is nothing to halve.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from device_jobs import D, N, Place, make_store
from host_streams import HostStreams

from skillaxes.run import plan as memory_plan
from skillaxes.stream.prefetch import LEAST_PANEL_ROWS, MOST_PANEL_ROWS, panel_rows_for, plan_device

MB, GB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("columns", "itemsize", "l2", "rows"),
    [
        (4096, 2, 50 * MB, 3200),
        (30720, 2, 50 * MB, 384),
        (30720, 4, 50 * MB, 128),
        (30720, 2, 40 * MB, 256),
        (122880, 2, 50 * MB, LEAST_PANEL_ROWS),
        (576, 2, 50 * MB, MOST_PANEL_ROWS),
    ],
)
def test_a_panel_is_half_of_the_l2(columns: int, itemsize: int, l2: int, rows: int) -> None:
    assert panel_rows_for(columns * itemsize, l2) == rows
    if LEAST_PANEL_ROWS < rows < MOST_PANEL_ROWS:
        assert 0.6 * l2 / 2 <= rows * columns * itemsize <= l2 / 2


@pytest.mark.parametrize("free", [0, 3 * GB, 10 * GB, 80 * GB])
@pytest.mark.parametrize("n_rows", [1, 50_000, 5_000_000])
def test_what_stays_fits(free: int, n_rows: int) -> None:
    row_bytes, panel_rows = 61440, 384
    plan = plan_device(
        HostStreams(free=max(free, 1)), n_rows=n_rows, panel_rows=panel_rows, row_bytes=row_bytes, working=GB
    )
    held = plan.reserve + plan.working + plan.ring + plan.kept
    assert plan.kept == 0 or held <= plan.free
    assert plan.kept_rows <= n_rows and plan.kept % (panel_rows * row_bytes) == 0
    if plan.kept_rows < n_rows:
        assert held + panel_rows * row_bytes > plan.free, "a further panel would have fitted"


def test_a_shortage_halves_until_there_is_nothing_left(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    sizes = []
    row_bytes = 400
    while plan is not None:
        assert plan.gpu is not None
        sizes.append((plan.panel_rows, plan.gpu.kept_rows))
        assert plan.gpu.kept == plan.gpu.kept_rows * row_bytes or plan.gpu.kept_rows == N
        plan = plan.halved(row_bytes)
    assert sizes[0] == (640, N) and sizes[-1] == (LEAST_PANEL_ROWS, 0)
    assert all(after < before for before, after in itertools.pairwise(sizes))


def test_host_memory_has_room_for_page_locked_buffers(tmp_path: Path) -> None:
    """What torch rounds up to powers of two is planned as such; the arithmetic's memory is the card's."""
    plan = _plan(tmp_path)
    there, unit = plan.memory, 97 * 400
    assert there.buffers == (3 + plan.workers) * 65536 > (3 + plan.workers) * unit
    assert there.panel == 0, "whole rows are copied from where they were read"
    assert memory_plan._power_of_two(65536) == 65536 and memory_plan._power_of_two(65537) == 131072


def test_threads_that_fetch_are_bounded_by_memory_and_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(64))
    assert _plan(tmp_path).workers == memory_plan.MOST_WORKERS
    monkeypatch.setattr(memory_plan.memory, "budget", lambda requested, processes_here: 600 << 20)
    monkeypatch.setattr(memory_plan, "fetch_rows", lambda store: 97 << 10)  # 64 MiB: two buffers in a quarter
    assert _plan(tmp_path, whole=False).workers == 1
    monkeypatch.undo()
    assert _plan(tmp_path, compressed=True).workers == 1


def _plan(folder: Path, *, whole: bool = True, **options: bool) -> Any:
    from skillaxes.config import make_config
    from skillaxes.pca.base import Problem
    from skillaxes.pca.solvers import choose_solver, make_solver
    from skillaxes.store import open_store

    store, config = open_store(make_store(folder, **options)), make_config(components=6)
    cuda = torch.device("cuda:0")
    problem = Problem(store.n_rows, store.n_features, torch.float16, cuda, config.solver, storage_bound=True)
    if not whole:
        needs = make_solver("krylov").requirements(replace(problem, storage_bound=False))
        demand = dict(store=store, config=make_config(), needs=needs, n_columns=D)
        return memory_plan.MemoryModel(**demand, panel_rows=640, sample_rows=1000, on_gpu=True, n_rows=1000)
    choice = choose_solver(store.n_rows, store.n_features, config.solver.components)
    place = HostStreams(free=8 * GB, l2=1 << 19)
    return memory_plan.make_plan(
        store, config, problem, make_solver(choice.name), device_reason="a card", streams=place
    )


def test_the_plan_is_in_the_manifest_and_on_the_command_line(tmp_path: Path) -> None:
    from skillaxes.cli.tables import plan_table

    found = Place("cpu", lambda device: HostStreams(free=GB)).discover(make_store(tmp_path)).manifest
    assert set(found["plan"]["gpu"]) >= {"free", "working", "ring", "kept", "kept_rows"}
    assert found["plan"]["gds"].startswith("not taken: its chunks carry checksums")
    assert found["gpu"]["read_path"] == "plain files"
    assert plan_table(found["plan"]) is not None
