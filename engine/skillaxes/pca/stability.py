"""Stability of directions between random halves of the rows, from Gram matrices of the kept projections by group.

Rows belong to twenty random groups. The sum of all Gram matrices gives the Rayleigh-Ritz problem. The sum over half of
the groups gives the covariance of a random half of the rows, so that ten splits cost one pass over the projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skillaxes.cluster.world import ALONE, World
from skillaxes.pca.projections import BLOCK_ROWS, Projections, blocks

GROUPS = 20  # random groups of rows
SPLITS = 10  # random halves of the groups
_SEPARATED = 2.0  # standard errors between two eigenvalues; sampling separates equal ones by about one
_EXTRA = 10  # directions of a half beyond k that may match one of the k: neighbours change places


@dataclass(frozen=True)
class Stability:
    """Variation of directions and eigenvalues between random halves of the rows.

    Attributes
    ----------
    cosines : Tensor of shape (k,), float64: |cos| between the matched directions of two halves, averaged over the
        splits
    standard_errors : Tensor of shape (k,), float64: of the eigenvalues, from the differences between halves
    """

    cosines: Tensor
    standard_errors: Tensor


class GroupedGrams:
    """SᵀS and the sums of S over each group of rows, for the kept projections S of complete reads.

    Parameters
    ----------
    seed : seed of the groups
    first_row, n_rows : the rows of this process

    Attributes
    ----------
    products : Tensor of shape (GROUPS, n_basis, n_basis), float64: SᵀS of the rows of all processes
    sums : Tensor of shape (GROUPS, n_basis), float64: sums of S over the rows of all processes
    """

    def __init__(self, seed: int, first_row: int, n_rows: int) -> None:
        self.seed, self.first_row, self.n_rows = seed, first_row, n_rows
        self.products = torch.zeros((GROUPS, 0, 0), dtype=torch.float64)
        self.sums = torch.zeros((GROUPS, 0), dtype=torch.float64)

    def extend(self, tables: Sequence[Projections], widths: Sequence[int], world: World) -> GroupedGrams:
        """The Gram matrices of all ``tables``, from those of all but the last: only new products are computed.

        Parameters
        ----------
        tables : kept projections of all reads
        widths : columns of each block of the basis, mean columns included; those of the mean are zero here
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
        world.all_reduce_(new, sums)
        out = GroupedGrams(self.seed, self.first_row, self.n_rows)
        before = starts[-2]
        out.products = torch.zeros((GROUPS, before + width, before + width), dtype=torch.float64)
        out.products[:, :before, :before] = self.products
        out.products[:, :, before:] = new
        out.products[:, before:, :before] = new[:, :before].transpose(1, 2)
        out.sums = torch.cat([self.sums, sums], dim=1)
        return out

    def covariance(self, n_samples: int) -> Tensor:
        """KᵀCK over all rows, of shape (n_basis, n_basis), float64. Skipped rows are zero here and add nothing."""
        return centered(self.products.sum(dim=0), self.sums.sum(dim=0), n_samples)


def split_half(
    grams: GroupedGrams, bad: np.ndarray, weights: Tensor, n_components: int, seed: int, world: World = ALONE
) -> Stability:
    """Compare the directions of two random halves of the rows, ten times; NaN where a half has fewer than 2 rows.

    Parameters
    ----------
    grams : Gram matrices of the kept projections of all processes
    bad : ndarray of shape (n_local,), bool: rows that do not count
    weights : Tensor of shape (n_basis, r), float64: K @ weights is orthonormal and begins with the k directions
    n_components : k
    seed : seed of the splits
    """
    k, r = n_components, weights.shape[1]
    products = (grams.products @ weights).transpose(1, 2) @ weights  # (groups, r, r); in the cheapest order
    sums = grams.sums @ weights  # (groups, r)
    counts = group_counts(grams, bad)
    world.all_reduce_(counts)
    rng = np.random.default_rng([seed, GROUPS])
    cosines = torch.zeros(k, dtype=torch.float64)
    differences = torch.zeros(k, dtype=torch.float64)
    for _ in range(SPLITS):
        chosen = np.zeros(GROUPS, bool)
        chosen[rng.permutation(GROUPS)[: GROUPS // 2]] = True
        halves = []
        for part in (torch.from_numpy(chosen), torch.from_numpy(~chosen)):
            count = float(counts[part].sum())
            if count < 2:
                return Stability(torch.full((k,), torch.nan), torch.full((k,), torch.nan))
            inner = centered(products[part].sum(dim=0), sums[part].sum(dim=0), count)
            values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
            width = min(k + _EXTRA, r)
            halves.append((values.flip(0)[:width], vectors.flip(1)[:, :width]))
        places = [matched(vectors[:k].abs()) for _, vectors in halves]
        first, second = (vectors[:, place] for (_, vectors), place in zip(halves, places, strict=True))
        cosines += (first * second).sum(dim=0).abs().clamp(max=1) / SPLITS
        differences += (halves[0][0][places[0]] - halves[1][0][places[1]]).square() / SPLITS
    # Two independent halves differ by sqrt(2) times the error of a half, which is sqrt(2) times that of the whole.
    return Stability(cosines, differences.sqrt() / 2)


def subspaces(values: Tensor, standard_errors: Tensor) -> list[list[int]]:
    """Groups of neighbours whose eigenvalues the sample does not separate, as lists of indices.

    North et al. 1982: two directions mix when their eigenvalues are closer than the sampling error. Here the error is
    measured between halves instead of taken from normal theory.

    Parameters
    ----------
    values, standard_errors : Tensors of shape (k,), float64: eigenvalues, descending, and their errors
    """
    groups = [[0]]
    for index in range(1, len(values)):
        error = float(torch.hypot(standard_errors[index - 1], standard_errors[index]))
        if float(values[index - 1] - values[index]) < _SEPARATED * error:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def group_counts(grams: GroupedGrams, bad: np.ndarray) -> Tensor:
    """Rows of this process that count in each group, of shape (GROUPS,), float64."""
    counts = np.zeros(GROUPS)
    step = 1 << 20
    for at in range(0, len(bad), step):
        part = bad[at : at + step]
        groups = row_groups(grams.seed, grams.first_row + at, grams.first_row + at + len(part))
        counts += np.bincount(groups[~part], minlength=GROUPS)
    return torch.from_numpy(counts)


def row_groups(seed: int, start: int, stop: int) -> np.ndarray:
    """The group of each global row, of shape (stop - start,), int64: a hash of row and seed (splitmix64).

    A hash makes groups independent of the order of rows, of chunks and of processes.
    """
    offset = (seed * 0x9E3779B97F4A7C15 + 1) % 2**64
    with np.errstate(over="ignore"):
        state = np.arange(start, stop, dtype=np.uint64) + np.uint64(offset)
        state *= np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state % np.uint64(GROUPS)).astype(np.int64)


def centered(products: Tensor, sums: Tensor, n_samples: float) -> Tensor:
    """(SᵀS - s sᵀ / n) / (n - 1) from the products SᵀS and the sums s over n rows."""
    return (products - torch.outer(sums, sums) / n_samples) / max(n_samples - 1, 1)


def matched(similarity: Tensor) -> Tensor:
    """A different column for each row of ``similarity`` (k, n >= k), of shape (k,), int64: greedy, largest first."""
    left = similarity.clone()
    places = torch.zeros(len(left), dtype=torch.int64)
    for _ in range(len(left)):
        row, column = divmod(int(left.argmax()), left.shape[1])
        places[row] = column
        left[row] = -1
        left[:, column] = -1
    return places
