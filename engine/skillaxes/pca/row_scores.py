"""Scores of every row, from kept projections and norms without a further read of the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skillaxes.pca.base import MEAN_COLUMNS
from skillaxes.pca.orthonormal import overlaps
from skillaxes.pca.projections import Projections
from skillaxes.pca.projections import blocks as row_blocks
from skillaxes.pca.rayleigh_ritz import combine
from skillaxes.pca.row_moments import RowMoments

_NO_SPREAD = 1e-6  # centred norm over |x - m|: below it a row equals the mean and has no centred cosine
_ON_MEAN = 1e-7  # centred norm over |x|: below it a centred row is the rounding of the float32 mean
_CANCELLATION = 0.5  # |x|, or the centred norm, over |x - m|: below it float32 projections leave too few digits


@dataclass(frozen=True)
class RowBlock:
    """Scores of some rows on r directions, float64.

    Attributes
    ----------
    start : first global row; -1 where the rows are not consecutive
    projection : Tensor of shape (n, r): (x - mean)·v
    raw : Tensor of shape (n, r): x·v
    norm, centered_norm : Tensors of shape (n,): |x| and |x - mean|; the latter NaN without a read after the mean was
        known
    bad : Tensor of shape (n,), bool: rows with NaN or infinity
    """

    start: int
    projection: Tensor
    raw: Tensor
    norm: Tensor
    centered_norm: Tensor
    bad: Tensor


@dataclass(frozen=True)
class RefinedRows:
    """Scores of some rows on r directions, computed from the rows themselves, float64.

    Attributes
    ----------
    rows : ndarray of shape (n,), int64, ascending global numbers
    raw, projection : Tensors of shape (n, r): x·v and (x - mean)·v
    norm, centered_norm : Tensors of shape (n,): |x| and |x - mean|
    """

    rows: np.ndarray
    raw: Tensor
    projection: Tensor
    norm: Tensor
    centered_norm: Tensor


@dataclass(frozen=True)
class RowScores:
    """Scores of the rows of one process on r directions.

    Attributes
    ----------
    moments : norms and bad rows
    tables : kept projections of each read; the last column of table ``carrier`` holds (x - m)·delta
    weights : a Tensor of shape (table.width - 1, r), float64, for each table: directions in terms of the projections
    at_shift : Tensor of shape (r,), float64: v·m
    at_delta : Tensor of shape (r,), float64: v·delta
    delta_square : |delta|², delta = mean - m
    corrected : whether a table holds (x - m)·delta
    directions : Tensor of shape (d, r), float64, on the CPU
    centered_known : whether norms of centred rows can be computed; they are NaN if not
    refined : rows that :func:`skillaxes.ranking.refine.refine` computed in float64
    """

    moments: RowMoments
    tables: tuple[Projections, ...]
    weights: tuple[Tensor, ...]
    at_shift: Tensor
    at_delta: Tensor
    delta_square: float
    corrected: bool
    directions: Tensor
    carrier: int = 0
    centered_known: bool = True
    refined: RefinedRows | None = None

    @property
    def first_row(self) -> int:
        """The first global row of this process."""
        return self.tables[0].first_row

    @property
    def n_rows(self) -> int:
        """Rows of this process."""
        return self.tables[0].n_rows

    def blocks(self) -> Iterator[RowBlock]:
        """All rows in order, at most BLOCK_ROWS at once."""
        for start, stop in row_blocks(self.first_row, self.n_rows):
            yield self.block(start, stop)

    def block(self, start: int, stop: int) -> RowBlock:
        """Rows ``start`` to ``stop`` (global)."""
        return self._combined(start, np.arange(start, stop), [table.rows(start, stop) for table in self.tables])

    def at(self, rows: np.ndarray) -> RowBlock:
        """Some rows, in the order of their global numbers ``rows`` (n,), int64."""
        return self._combined(-1, rows, [table.at(rows) for table in self.tables])

    def norms(self, rows: np.ndarray) -> np.ndarray:
        """|x| of some rows, by their global numbers, of shape (n,), float32."""
        return self.moments.norm[rows - self.first_row]

    def needs_refinement(self) -> np.ndarray:
        """Rows whose kept projections cancel too far for their scores, int64, ascending global numbers."""
        found = []
        for start, stop in row_blocks(self.first_row, self.n_rows):
            place = np.arange(start, stop) - self.first_row
            along = self.tables[self.carrier].rows(start, stop)[:, -1] if self.corrected else None
            shifted, square = self._squares(place, along)
            norm = torch.from_numpy(self.moments.norm[place].astype(np.float64))
            limit = _CANCELLATION**2 * (shifted + self.delta_square)
            cancels = (norm > 0) & (norm.square() < limit)
            if self.centered_known:
                cancels |= (norm > 0) & (square < limit)
            found.append(start + np.flatnonzero(cancels.numpy() & ~self.moments.bad[place]))
        return np.concatenate(found)

    def _squares(self, place: np.ndarray, along: np.ndarray | None) -> tuple[Tensor, Tensor]:
        """|x - m|² and |x - mean|², of shape (n,); ``along`` holds (x - m)·delta."""
        shifted = torch.from_numpy(self.moments.shifted_square[place].astype(np.float64))
        if along is None:
            return shifted, shifted
        return shifted, shifted - 2 * torch.from_numpy(along).double() + self.delta_square

    def _combined(self, start: int, rows: np.ndarray, tables: list[np.ndarray]) -> RowBlock:
        place = rows - self.first_row
        relative = torch.zeros((len(rows), len(self.at_shift)), dtype=torch.float64)
        for table, weights in zip(tables, self.weights, strict=True):
            relative += torch.from_numpy(table[:, :-1]).double() @ weights
        shifted, square = self._squares(place, tables[self.carrier][:, -1] if self.corrected else None)
        if not self.centered_known:
            square = torch.full_like(square, torch.nan)
        square = torch.where(square < _NO_SPREAD**2 * (shifted + self.delta_square), 0.0, square)
        block = RowBlock(
            start,
            relative - self.at_delta,
            relative + self.at_shift,
            torch.from_numpy(self.moments.norm[place].astype(np.float64)),
            square.clamp(min=0).sqrt(),
            torch.from_numpy(self.moments.bad[place]),
        )
        if self.refined is not None:
            self._put_refined(self.refined, rows, block)
        return block

    def _put_refined(self, exact: RefinedRows, rows: np.ndarray, block: RowBlock) -> None:
        """Overwrite the refined rows among ``rows``, the rows of ``block``."""
        source = np.searchsorted(exact.rows, rows)
        source[source == len(exact.rows)] = 0
        target = np.flatnonzero(exact.rows[source] == rows)
        if not len(target):
            return
        source = source[target]
        block.raw[target] = exact.raw[source]
        block.projection[target] = exact.projection[source]
        block.norm[target] = exact.norm[source]
        if self.centered_known:
            norms = exact.centered_norm[source]
            block.centered_norm[target] = torch.where(norms < _ON_MEAN * exact.norm[source], 0.0, norms)


def row_scores(
    blocks: Sequence[Tensor],
    tables: tuple[Projections, ...],
    holds_mean_correction: Sequence[bool],
    moments: RowMoments,
    shift: Tensor,
    weights: Tensor,
) -> RowScores:
    """Scores of every row on the directions K @ ``weights``, each of unit length.

    Parameters
    ----------
    blocks, tables, holds_mean_correction : fields of :class:`skillaxes.pca.krylov.Basis`
    moments : the complete moments of the rows
    shift : Tensor of shape (d,), float64: the provisional mean
    weights : Tensor of shape (n_basis, r), float64: directions in terms of the basis
    """
    assert moments.delta is not None
    parts = weights.split([block.shape[1] for block in blocks])
    onto = weights.to(shift.device)
    at = onto.T @ overlaps(blocks, torch.stack([shift, moments.delta], dim=1))  # (r, 2)
    return RowScores(
        moments=moments,
        tables=tables,
        weights=tuple(part[:-MEAN_COLUMNS].cpu() for part in parts),
        at_shift=at[:, 0].cpu(),
        at_delta=at[:, 1].cpu(),
        delta_square=float(moments.delta.square().sum()),
        corrected=any(holds_mean_correction),
        carrier=holds_mean_correction.index(True) if any(holds_mean_correction) else 0,
        directions=combine(blocks, onto).cpu(),
    )
