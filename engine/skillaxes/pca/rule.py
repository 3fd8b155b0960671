"""Which solver serves a store, and why: a rule that can be asked."""

from __future__ import annotations

from typing import NamedTuple

COVARIANCE_COLUMNS = 1024  # up to here the eigenproblem costs less than a further read of most stores
# Columns of a block beyond k, before rounding up. A CPU is bound by its products: 2 reads with 48 columns (k = 10) and
# one with 16 cost it 112 columns of products, 2 reads with 96 cost 192 and leave residuals ten times larger. A GPU
# multiplies 96 columns while it waits for the next rows, so what counts there are reads: 96 columns are within the
# default tolerance after two reads of real activations (residual 3e-4), 48 after three (5e-5).
OVERSAMPLING = 32
OVERSAMPLING_STORAGE_BOUND = 80
OVERSAMPLING_LAST = 4  # of the read that is foreseen to be the last
MULTIPLE = 16  # matrix products like a multiple of it


class SolverChoice(NamedTuple):
    """A solver's name and the reasons for it."""

    name: str
    reasons: tuple[str, ...]


def choose_solver(n_rows: int, n_columns: int, n_components: int, requested: str = "auto") -> SolverChoice:
    """The solver for a store of this shape.

    ``covariance`` where the d x d matrix is small (one read and it is exact); ``krylov`` otherwise. ``incremental``
    is never chosen for a store, which can be read again: it is for rows that arrive once, and is less exact.
    """
    if requested != "auto":
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


def block_size(n_components: int, n_columns: int, utility: int, *, storage_bound: bool = False) -> int:
    """Columns of one block of the Krylov basis, l: k, oversampling and the utility columns, rounded up to a multiple of
    16.

    Parameters
    ----------
    storage_bound : rows arrive slower than they are multiplied, as on a GPU: more columns, fewer reads
    """
    oversampling = OVERSAMPLING_STORAGE_BOUND if storage_bound else OVERSAMPLING
    return rounded_up(min(n_components + oversampling, n_columns) + utility)


def last_block_size(n_components: int, block_size: int, utility: int) -> int:
    """Columns of the block of the last read, at most ``block_size``: k, a few more and the utility columns, rounded
    up.
    """
    return min(rounded_up(n_components + OVERSAMPLING_LAST + utility), block_size)


def rounded_up(columns: int) -> int:
    """The columns that a block of so many takes."""
    return -(-columns // MULTIPLE) * MULTIPLE
