"""The law: the choice of a solver is a rule that can be asked: shape and options decide, and the reasons are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.matrices import power_law, write_store

import skillaxes
from skillaxes.pca.krylov import block_columns
from skillaxes.pca.solvers import choose_solver
from skillaxes.run import plan as planning
from skillaxes.run.plan import panel_rows_for


@pytest.mark.parametrize(
    ("columns", "name"), [(1, "covariance"), (1024, "covariance"), (1025, "krylov"), (122_880, "krylov")]
)
def test_auto(columns: int, name: str) -> None:
    for rows in (2, 10**8):
        choice = choose_solver(rows, columns, 10)
        assert choice.name == name
        assert choice.reasons and all(f"{columns:,}" in choice.reasons[0] for _ in "x")


@pytest.mark.parametrize("name", ["krylov", "incremental", "covariance"])
def test_a_name_is_an_order(name: str) -> None:
    assert choose_solver(100, 50, 10, name) == (name, ("asked for",))


def test_block_size() -> None:
    for k in (1, 10, 16, 100):
        for d in (1, 5, 50, 5000):
            size = block_columns(k, d, 2)
            assert size % 16 == 0 and size >= min(k + 32, d) + 2
            assert block_columns(k, d, 2, storage_bound=True) >= size
    assert (block_columns(10, 5000, 2), block_columns(10, 5000, 2, storage_bound=True)) == (48, 96)


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
        assert said["block_columns"] == planned.block_size == found.manifest["solver"]["block_columns"]
        assert said["reads"] == planned.reads
        assert planned.memory.total <= planned.memory.budget
        assert not (tmp_path / "run").exists()
