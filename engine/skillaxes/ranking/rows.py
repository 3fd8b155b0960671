"""What the reads left of every row: projections, norms, and from them every cosine. No further read of the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skillaxes.pca import krylov
from skillaxes.pca.moments import RowMoments
from skillaxes.pca.projections import Projections, blocks
from skillaxes.run_folder.formats import CENTERED_COSINE, PROJECTION, RAW_COSINE

_NO_SPREAD = 1e-6  # centred norm over |x - m| under which a row sits on the mean and has no centred cosine


@dataclass(frozen=True)
class RowBlock:
    """Some rows against r directions, in float64.

    Attributes
    ----------
    start : first global row; -1 where the rows are not consecutive
    projection : Tensor of shape (n, r): (x - mean)·v
    raw : Tensor of shape (n, r): x·v
    norm, centered_norm : Tensors of shape (n,): |x| and |x - mean|; the latter NaN where the mean was not known in time
    bad : Tensor of shape (n,), bool: held NaN or infinity
    """

    start: int
    projection: Tensor
    raw: Tensor
    norm: Tensor
    centered_norm: Tensor
    bad: Tensor

    def scores(self, rank_by: str) -> Tensor:
        """Of shape (n, r); 0 where a row has no such score."""
        if rank_by == PROJECTION:
            return self.projection
        if rank_by == RAW_COSINE:
            return _divided(self.raw, self.norm)
        assert rank_by == CENTERED_COSINE
        return _divided(self.projection, self.centered_norm)

    def rankable(self, rank_by: str) -> Tensor:
        """Of shape (n,), bool: a row of zeros has no cosine, a row on the mean no centred one."""
        usable = ~self.bad & (self.norm > 0)
        return usable & (self.centered_norm > 0) if rank_by == CENTERED_COSINE else usable


@dataclass(frozen=True)
class KeptRows:
    """Everything a ranking needs of the rows of one process.

    Attributes
    ----------
    moments : norms and bad rows
    tables : kept projections of each read; the last column of the second one holds (x - m)·delta
    weights : a Tensor of shape (table.width - 1, r), float64, for each table: how projections combine to directions
    at_shift : Tensor of shape (r,), float64: v·m
    at_delta : Tensor of shape (r,), float64: v·delta
    delta_square : |delta|², delta = mean - m
    corrected : whether the tables hold (x - m)·delta
    centered_known : whether norms of centred rows follow; if not, they are NaN
    """

    moments: RowMoments
    tables: tuple[Projections, ...]
    weights: tuple[Tensor, ...]
    at_shift: Tensor
    at_delta: Tensor
    delta_square: float
    corrected: bool
    centered_known: bool = True

    @property
    def first_row(self) -> int:
        return self.tables[0].first_row

    @property
    def n_rows(self) -> int:
        return self.tables[0].n_rows

    def blocks(self) -> Iterator[RowBlock]:
        """Every row once, in order."""
        for start, stop in blocks(self.first_row, self.n_rows):
            yield self.block(start, stop)

    def block(self, start: int, stop: int) -> RowBlock:
        """Rows ``start`` to ``stop`` (global)."""
        place = slice(start - self.first_row, stop - self.first_row)
        return self._combined(start, place, stop - start, [table.rows(start, stop) for table in self.tables])

    def at(self, rows: np.ndarray) -> RowBlock:
        """Some rows, by their global numbers, in that order."""
        kept = [table.at(rows) for table in self.tables]
        return self._combined(-1, rows - self.first_row, len(rows), kept)

    def _combined(self, start: int, place: slice | np.ndarray, n: int, tables: list[np.ndarray]) -> RowBlock:
        relative = torch.zeros((n, len(self.at_shift)), dtype=torch.float64)
        along = torch.zeros(n, dtype=torch.float64)
        for number, (table, weights) in enumerate(zip(tables, self.weights, strict=True)):
            kept = torch.from_numpy(table).double()
            relative += kept[:, :-1] @ weights
            if number == 1 and self.corrected:
                along = kept[:, -1]
        shifted = torch.from_numpy(self.moments.shifted_square[place].astype(np.float64))
        square = shifted - 2 * along + (self.delta_square if self.corrected else 0.0)
        if not self.centered_known:
            square = torch.full_like(square, torch.nan)
        square = torch.where(square < _NO_SPREAD**2 * (shifted + self.delta_square), 0.0, square)
        norm = torch.from_numpy(self.moments.norm[place].astype(np.float64))
        bad = torch.from_numpy(self.moments.bad[place])
        return RowBlock(
            start,
            relative - self.at_delta,
            relative + self.at_shift,
            norm,
            square.clamp(min=0).sqrt(),
            bad,
        )


def kept_rows(state: krylov.KrylovState, weights: Tensor) -> KeptRows:
    """Every row against the directions K @ ``weights`` (n_basis, r), float64, each of unit length."""
    assert state.moments.delta is not None
    width = state.problem.block_size
    parts = [weights[number * width : (number + 1) * width] for number in range(state.reads)]
    onto = weights.to(state.shift.device)
    shift = torch.cat([block.double().T @ state.shift for block in state.blocks])
    delta = torch.cat([block.double().T @ state.moments.delta for block in state.blocks])
    return KeptRows(
        moments=state.moments,
        tables=state.tables,
        weights=tuple(part[: width - krylov.UTILITY].cpu() for part in parts),
        at_shift=(onto.T @ shift).cpu(),
        at_delta=(onto.T @ delta).cpu(),
        delta_square=float(state.moments.delta.square().sum()),
        corrected=state.reads > 1,
    )


def _divided(products: Tensor, norms: Tensor) -> Tensor:
    return torch.where(norms[:, None] > 0, products / norms.clamp(min=1e-300)[:, None], 0.0)
