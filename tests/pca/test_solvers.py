"""The law: the choice of a solver is a rule that can be asked: shape and options decide, and the reasons are given."""

from __future__ import annotations

import pytest

from skillaxes.pca.krylov import block_columns
from skillaxes.pca.solvers import choose_solver


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


def test_block_columns() -> None:
    for k in (1, 10, 16, 100):
        for d in (1, 5, 50, 5000):
            size = block_columns(k, d)
            assert size % 16 == 0 and size >= min(k + 32, d) + 2
            assert block_columns(k, d, storage_bound=True) >= size
    assert (block_columns(10, 5000), block_columns(10, 5000, storage_bound=True)) == (48, 96)
