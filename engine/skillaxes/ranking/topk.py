"""Top-k lists of every direction in one pass over the row scores, and the certified members of a list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skillaxes.cluster.world import ALONE, World
from skillaxes.pca.row_scores import RowBlock, RowScores
from skillaxes.ranking.scores import SCORES
from skillaxes.run_folder.schema import CENTERED_COSINE, RAW_COSINE
from skillaxes_kernels import TopK, TopKLists

ROUNDING = 1e-6  # of a cosine from float32 products: 4e-8 on real activations, more where the mean is large


@dataclass(frozen=True)
class Ranking:
    """Top-k lists of k components, then of r - k random directions, and figures of the raw cosines.

    Attributes
    ----------
    rank_by : name of the score, a key of :data:`skillaxes.ranking.scores.SCORES`
    lists : r lists of ``depth`` rows a side by that score, and one runner-up
    raw, centered : k lists of ``top`` rows a side by raw and by centred cosine
    n_zero : rows of zeros
    n_ranked : rows with a score
    norm_correlation : ndarray of shape (k,), float64: Pearson correlation of the raw cosine with the row norm
    positive_share : ndarray of shape (k,), float64: share of rows whose raw cosine is positive
    largest_norm : largest norm of a centred row
    """

    rank_by: str
    lists: TopKLists
    raw: TopKLists
    centered: TopKLists
    n_zero: int
    n_ranked: int
    norm_correlation: np.ndarray
    positive_share: np.ndarray
    largest_norm: float


def rank(
    rows: RowScores,
    n_components: int,
    *,
    top: int,
    depth: int,
    rank_by: str,
    on_block: Callable[[RowBlock], None] = lambda block: None,
    world: World = ALONE,
) -> Ranking:
    """Rank every row against every direction.

    Parameters
    ----------
    rows : scores of the rows of this process
    n_components : k: the first k directions of ``rows`` are the components, the others random directions
    top : length of the lists by raw and by centred cosine
    depth : length of the lists by ``rank_by``
    rank_by : name of the score, a key of :data:`skillaxes.ranking.scores.SCORES`
    on_block : called with every block of rows once, in order
    world : the processes that share the rows
    """
    k, r = n_components, len(rows.at_shift)
    ranked_by, raw_cosine, centered_cosine = SCORES[rank_by], SCORES[RAW_COSINE], SCORES[CENTERED_COSINE]
    lists = TopK.init(r, depth + 1, dtype=torch.float64)
    both = {name: TopK.init(k, top, dtype=torch.float64) for name in (RAW_COSINE, CENTERED_COSINE)}
    sums = _Correlation(k)
    counts = np.zeros(3)  # rows of zeros, ranked rows, largest centred norm
    for block in rows.blocks():
        on_block(block)
        rankable = ranked_by.rankable(block)
        scores = ranked_by.of(block)
        lists = lists.update(scores, block.start, rankable)
        raw = (scores if ranked_by is raw_cosine else raw_cosine.of(block))[:, :k]
        for score, cosines in ((raw_cosine, raw), (centered_cosine, centered_cosine.of(block)[:, :k])):
            both[score.name] = both[score.name].update(cosines.contiguous(), block.start, score.rankable(block))
        has_cosine = raw_cosine.rankable(block)
        sums.add(raw[has_cosine], block.norm[has_cosine])
        counts[0] += int((~block.bad & (block.norm == 0)).sum())
        counts[1] += int(rankable.sum())
        counts[2] = max(counts[2], float(block.centered_norm.nan_to_num().max()) if len(block.norm) else 0.0)
    parts = world.all_gather_object((lists, both, sums, counts))
    for other_lists, other_both, other_sums, other_counts in (
        parts[i] for i in range(world.world_size) if i != world.rank
    ):
        lists = lists.merge(other_lists)
        both = {name: both[name].merge(other_both[name]) for name in both}
        sums.merge(other_sums)
        counts[:2] += other_counts[:2]
        counts[2] = max(counts[2], other_counts[2])
    return Ranking(
        rank_by,
        lists.finalize(),
        both[RAW_COSINE].finalize(),
        both[CENTERED_COSINE].finalize(),
        int(counts[0]),
        int(counts[1]),
        sums.correlation(),
        sums.positive_share(),
        float(counts[2]),
    )


def certified_members(scores: Tensor, next_score: float, angle: float) -> Tensor:
    """Whether each member stays in the list for every direction within the bound, of shape (n,), bool.

    Order within the list is not certified. A unit vector v' at an angle of at most a from v has
    ``|x·v' - x·v| <= |x| (sin(a) sqrt(1 - c²) + (1 - cos(a)) |c|)``, where c is the cosine of x and v.

    Parameters
    ----------
    scores : Tensor of shape (n,): cosines of the members with the direction of this side, descending
    next_score : cosine of the runner-up, the best row outside the list; -inf for none
    angle : bound on the angle to the exact direction, radians
    """
    bound = torch.tensor(angle, dtype=torch.float64)
    compared = torch.cat([scores.double(), torch.tensor([next_score], dtype=torch.float64)])
    cosines = compared.clamp(-1, 1)
    error = bound.sin() * (1 - cosines.square()).sqrt() + (1 - bound.cos()) * cosines.abs() + ROUNDING
    lowest = compared[:-1] - error[:-1]
    highest = compared[-1] + error[-1]
    return lowest > highest


class _Correlation:
    """Pearson correlation of k series with one series, streamed in float64."""

    def __init__(self, k: int) -> None:
        self.sums = np.zeros((6, k))  # n, x, y, xx, yy, xy
        self.positive = np.zeros(k)

    def add(self, cosines: Tensor, norms: Tensor) -> None:
        if not len(norms):
            return
        x = cosines.numpy()
        y = norms.numpy()[:, None]
        self.sums += [
            np.full(x.shape[1], len(y)),
            x.sum(0),
            np.full(x.shape[1], y.sum()),
            (x * x).sum(0),
            np.full(x.shape[1], (y * y).sum()),
            (x * y).sum(0),
        ]
        self.positive += (x > 0).sum(0)

    def merge(self, other: _Correlation) -> None:
        self.sums += other.sums
        self.positive += other.positive

    def correlation(self) -> np.ndarray:
        n, x, y, xx, yy, xy = self.sums
        n = np.maximum(n, 1)
        spread = np.sqrt(np.maximum(xx / n - (x / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
        return np.where(spread > 0, (xy / n - x * y / n**2) / np.where(spread > 0, spread, 1), 0.0)

    def positive_share(self) -> np.ndarray:
        return self.positive / np.maximum(self.sums[0], 1)
