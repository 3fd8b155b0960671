"""The tables of solvers and of column scales by name, and the rule that chooses a solver and gives its reasons."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from skillaxes.pca.base import Solver

# Name and class, as text: the command line lists the names without importing torch.
SOLVERS = {
    "krylov": "skillaxes.pca.krylov.Krylov",
    "incremental": "skillaxes.pca.incremental.Incremental",
    "covariance": "skillaxes.pca.covariance.Covariance",
}

UNSCALED = "none"  # columns as they are
LAYER_RMS = "layer-rms"  # each layer divided by the root mean variance of its columns
COLUMN_STD = "column-std"  # each column divided by its standard deviation
SCALES = (UNSCALED, LAYER_RMS, COLUMN_STD)

COVARIANCE_COLUMNS = 1024  # up to here the eigenproblem costs less than a further read of most stores


class SolverChoice(NamedTuple):
    """A solver's name and the reasons for it."""

    name: str
    reasons: tuple[str, ...]


def make_solver(name: str) -> Solver[Any]:
    """The solver named ``name``, a key of :data:`SOLVERS`."""
    module, _, kind = SOLVERS[name].rpartition(".")
    return getattr(import_module(module), kind)()


def choose_solver(n_rows: int, n_columns: int, n_components: int, requested: str = "auto") -> SolverChoice:
    """The solver for a store of this shape, or ``requested`` where that names one.

    ``covariance`` where the d x d matrix is small: it is exact after one read. ``krylov`` otherwise. ``incremental`` is
    never chosen: it is for rows that are read once, and less exact than a solver that reads a store again.
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
