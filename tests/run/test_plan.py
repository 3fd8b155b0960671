"""The law: a plan is made before anything is read, fits the cache and the budget, and is what the job then does."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.matrices import power_law, write_store

import skillaxes
from skillaxes.run import plan as planning
from skillaxes.run.plan import panel_rows_for


def test_panels_fit_the_cache_and_are_powers_of_two() -> None:
    for d in (1, 100, 4608, 30_720, 122_880, 10**7):
        rows = panel_rows_for(4 * d)
        assert 64 <= rows <= 4096 and rows & (rows - 1) == 0
        assert rows == 64 or rows * d * 4 <= 16 << 20


def test_panels_are_larger_in_a_large_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert panel_rows_for(4 * 30_720) == 128
    monkeypatch.setattr(planning, "_outer_cache", lambda: 480 << 20)
    assert panel_rows_for(4 * 30_720) == 256 and panel_rows_for(400) == 4096


def test_a_plan_is_what_is_done(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", power_law(3000, 60, exponent=0.8))
    for solver in ("krylov", "covariance", "incremental"):
        planned = skillaxes.plan(store, solver=solver, components=5)
        found = skillaxes.discover(store, solver=solver, components=5)
        said = found.manifest["plan"]
        assert said["solver"] == planned.solver == solver == found.manifest["solver"]["name"]
        assert said["block_size"] == planned.block_size == found.manifest["solver"]["block_size"]
        assert said["reads"] == planned.reads
        assert planned.memory.total <= planned.memory.budget
        assert not (tmp_path / "run").exists()
