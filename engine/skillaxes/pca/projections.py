"""Kept projections: the projections of every row of one read, in global row order, in memory or on disk.

The Rayleigh-Ritz problem, the ranking and the split halves are computed from them: N x l numbers a read, not N x D.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skillaxes.files import read_at, write_at

BLOCK_ROWS = 8192  # rows at once of later passes; fixed, so that sums have one order


class Projections:
    """A table of shape (n_rows, width), float32, written in row order and read in blocks.

    Parameters
    ----------
    first_row, n_rows : the global rows of the table
    width : columns
    file : file of a table on disk; None for one in memory
    """

    def __init__(self, first_row: int, n_rows: int, width: int, file: Path | None = None) -> None:
        self.first_row, self.n_rows, self.width = first_row, n_rows, width
        self.file = file
        self._table = np.empty((n_rows, width), np.float32) if file is None else None
        self._descriptor = -1
        if file is not None:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            file.unlink()  # it is removed when the process ends, however it ends

    def write(self, start: int, rows: np.ndarray) -> None:
        """Write ``rows`` (n, width), float32, from global row ``start`` on.

        Raises
        ------
        OSError : the file cannot be written
        """
        at = start - self.first_row
        if self._table is not None:
            self._table[at : at + len(rows)] = rows
            return
        write_at(self._descriptor, np.ascontiguousarray(rows, np.float32), at * self.width * 4)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` (global), of shape (stop - start, width), float32.

        Raises
        ------
        OSError : the file cannot be read or ends too early
        """
        at = start - self.first_row
        if self._table is not None:
            return self._table[at : at + stop - start]
        out = np.empty((stop - start, self.width), np.float32)
        if read_at(self._descriptor, out, at * self.width * 4) < out.nbytes:
            raise OSError(f"{self.file}: the spilled projections end too early")
        return out

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Some rows by their global numbers ``rows`` (n,), int64, of shape (n, width), float32."""
        if self._table is not None:
            return self._table[rows - self.first_row]
        out = np.empty((len(rows), self.width), np.float32)
        at = rows - self.first_row
        for block in np.unique(at // BLOCK_ROWS):
            places = np.flatnonzero(at // BLOCK_ROWS == block)
            first, last = at[places].min(), at[places].max() + 1
            out[places] = self.rows(self.first_row + int(first), self.first_row + int(last))[at[places] - first]
        return out

    def close(self) -> None:
        """Free the memory or close the file."""
        self._table = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ProjectionStore:
    """The tables of kept projections of one job.

    Parameters
    ----------
    first_row, n_rows : the global rows of this process
    scratch : folder for tables on disk; None for tables in memory
    """

    def __init__(self, first_row: int, n_rows: int, scratch: Path | None = None) -> None:
        self.first_row, self.n_rows, self._scratch = first_row, n_rows, scratch
        self._tables: list[Projections] = []

    def new(self, width: int) -> Projections:
        """A new table with ``width`` columns.

        Raises
        ------
        OSError : the file cannot be made
        """
        name = f"projections-{os.getpid()}-{len(self._tables)}.f32"
        file = None if self._scratch is None else self._scratch / name
        self._tables.append(Projections(self.first_row, self.n_rows, width, file))
        return self._tables[-1]

    def close(self) -> None:
        """Close all tables."""
        for table in self._tables:
            table.close()
        self._tables.clear()


def blocks(first_row: int, n_rows: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the blocks of a pass over kept projections, split at multiples of BLOCK_ROWS (global)."""
    start = first_row
    while start < first_row + n_rows:
        stop = min((start // BLOCK_ROWS + 1) * BLOCK_ROWS, first_row + n_rows)
        yield start, stop
        start = stop
