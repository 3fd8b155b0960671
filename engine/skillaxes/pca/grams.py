"""Gram matrices of the kept projections, by random group of rows.

Their sum gives the Rayleigh-Ritz problem, and any choice of half the groups gives the covariance of a random half of
the rows: twenty groups make ten splits without another pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skillaxes.cluster.world import World
from skillaxes.pca.projections import BLOCK_ROWS, Projections, blocks

GROUPS = 20


class GroupedGrams:
    """SᵀS and sums of S for each group of rows, for the blocks that have been read.

    Parameters
    ----------
    seed : of the groups
    first_row, n_rows : the rows of this process
    """

    def __init__(self, seed: int, first_row: int, n_rows: int) -> None:
        self.seed, self.first_row, self.n_rows = seed, first_row, n_rows
        self.products = torch.zeros((GROUPS, 0, 0), dtype=torch.float64)
        self.sums = torch.zeros((GROUPS, 0), dtype=torch.float64)

    def extend(self, tables: Sequence[Projections], widths: Sequence[int], world: World) -> GroupedGrams:
        """The Grams of all blocks of ``tables``, given those of all but the last.

        Only the products with the new block are computed: the rest is kept. Each block takes its number of ``widths``
        as columns, of which the utility columns are zero.
        """
        starts, width = np.cumsum([0, *widths]).tolist(), widths[-1]
        new = torch.zeros((GROUPS, starts[-1], width), dtype=torch.float64)
        sums = torch.zeros((GROUPS, width), dtype=torch.float64)
        room = torch.zeros((min(BLOCK_ROWS, self.n_rows), starts[-1]), dtype=torch.float64)
        for start, stop in blocks(self.first_row, self.n_rows):
            groups = row_groups(self.seed, start, stop)
            order = np.argsort(groups, kind="stable")
            ends = np.searchsorted(groups[order], np.arange(GROUPS + 1))
            for at, table in zip(starts[:-1], tables, strict=True):
                rows = torch.from_numpy(np.take(table.rows(start, stop), order, axis=0))
                room[: stop - start, at : at + table.width - 1] = rows[:, :-1]
            for group in range(GROUPS):
                rows = room[int(ends[group]) : int(ends[group + 1])]
                sums[group] += rows[:, starts[-2] :].sum(dim=0)
                new[group].addmm_(rows.T, rows[:, starts[-2] :])
        world.sum_(new, sums)
        out = GroupedGrams(self.seed, self.first_row, self.n_rows)
        before = starts[-2]
        out.products = torch.zeros((GROUPS, before + width, before + width), dtype=torch.float64)
        out.products[:, :before, :before] = self.products
        out.products[:, :, before:] = new
        out.products[:, before:, :before] = new[:, :before].transpose(1, 2)
        out.sums = torch.cat([self.sums, sums], dim=1)
        return out

    def covariance(self, n_samples: int) -> Tensor:
        """KᵀCK over all rows, of shape (n_basis, n_basis), float64. Rows of zeros (skipped ones) add nothing."""
        return centered(self.products.sum(dim=0), self.sums.sum(dim=0), n_samples)


def centered(products: Tensor, sums: Tensor, n_samples: float) -> Tensor:
    """(SᵀS - s sᵀ / n) / (n - 1) from the products and sums over n rows."""
    return (products - torch.outer(sums, sums) / n_samples) / max(n_samples - 1, 1)


def row_groups(seed: int, start: int, stop: int) -> np.ndarray:
    """The group of each global row, of shape (stop - start,): a hash of row and seed (splitmix64), so that order and
    chunks play no part."""
    offset = (seed * 0x9E3779B97F4A7C15 + 1) % 2**64
    with np.errstate(over="ignore"):
        state = np.arange(start, stop, dtype=np.uint64) + np.uint64(offset)
        state *= np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state % np.uint64(GROUPS)).astype(np.int64)
