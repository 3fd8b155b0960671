"""The solvers by name, and the rule that chooses one: it can be asked, and it gives its reasons."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from skillaxes.pca.base import Solver

# Name and class, as text: the command line lists the names without loading torch.
SOLVERS = {
    "krylov": "skillaxes.pca.krylov.Krylov",
    "incremental": "skillaxes.pca.incremental.Incremental",
    "covariance": "skillaxes.pca.covariance.Covariance",
}

COVARIANCE_COLUMNS = 1024  # up to here the eigenproblem costs less than a further read of most stores


class SolverChoice(NamedTuple):
    """A solver's name and the reasons for it."""

    name: str
    reasons: tuple[str, ...]


def make_solver(name: str) -> Solver[Any]:
    """The solver of that name."""
    module, _, kind = SOLVERS[name].rpartition(".")
    return getattr(import_module(module), kind)()


def choose_solver(n_rows: int, n_columns: int, n_components: int, requested: str = "auto") -> SolverChoice:
    """The solver for a store of this shape.

    ``covariance`` where the d x d matrix is small (one read and it is exact); ``krylov`` otherwise. ``incremental``
    is never chosen for a store, which can be read again: it is for rows that arrive once, and is less exact.
    """
    if requested in SOLVERS:
        return SolverChoice(requested, ("asked for",))
    if n_columns <= COVARIANCE_COLUMNS:
        return SolverChoice(
            "covariance", (f"{n_columns:,} columns: a covariance matrix of that size is exact after one read",)
        )
    return SolverChoice(
        "krylov",
        (
            f"{n_columns:,} columns: a covariance matrix would take {8 * n_columns**2 / 2**30:,.1f} GiB",
            "two or three reads reach the tolerance, and the ranking comes out of them",
        ),
    )
