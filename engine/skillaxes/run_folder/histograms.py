"""Histograms of the rows' scores on each direction, from ``scores.zarr``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skillaxes.run_folder import schema
from skillaxes.run_folder.directions import Directions
from skillaxes.run_folder.schema import RANKINGS, ScoreBlock

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 72
_FINE_BINS = 4800  # of the one pass over the scores; merged into BINS when the range is known
_SCORES_PER_STEP = 1 << 18  # scores in memory at once


@dataclass(frozen=True)
class Histogram:
    """Number of rows in each bin of a score.

    Attributes
    ----------
    edges : ndarray of shape (bins + 1,), float64, ascending
    counts : ndarray of shape (bins,), int64; the first and the last bin hold rows
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


def read_histograms(run_dir: Path, directions: Directions) -> dict[str, list[Histogram]]:
    """Histograms by score, one of :data:`RANKINGS`, one for each direction; empty without ``scores.zarr``.

    One pass over the scores in bounded memory. Rows of zeros and rows left out have no score.
    """
    path = Path(run_dir) / schema.SCORES
    if not path.is_dir():
        return {}
    import zarr

    scores: Any = zarr.open_group(str(path), mode="r")
    n_rows, k = scores["projection"].shape
    along_mean = (directions.components.astype(np.float64) @ directions.mean.astype(np.float64)).astype(np.float32)
    deviation = np.sqrt(np.maximum(directions.explained_variance, np.finfo(np.float32).tiny)).astype(np.float32)
    fine = {name: np.zeros((k, _FINE_BINS), np.int64) for name in RANKINGS}
    step = max(1, _SCORES_PER_STEP // max(1, k))
    for start in range(0, n_rows, step):
        part = slice(start, start + step)
        projection, norm, centered_norm = (scores[name][part] for name in ("projection", "norm", "centered_norm"))
        rows = ScoreBlock(projection, norm, centered_norm, along_mean, deviation)
        for name, score in RANKINGS.items():
            limit = score.limit
            with np.errstate(divide="ignore", invalid="ignore"):
                values = score.values(rows)
            for index in range(k):
                column = values[norm > 0, index]
                column = column[np.isfinite(column)]
                fine[name][index] += np.histogram(np.clip(column, -limit, limit), _FINE_BINS, (-limit, limit))[0]
    return {name: [_merged(counts, RANKINGS[name].limit) for counts in fine[name]] for name in RANKINGS}


def _merged(fine: NDArray[np.int64], limit: float) -> Histogram:
    """Fine bins merged into at most BINS over the range that holds rows."""
    edges = np.linspace(-limit, limit, _FINE_BINS + 1)
    filled = np.flatnonzero(fine)
    if filled.size == 0:
        return Histogram(edges[[0, -1]], np.zeros(1, np.int64))
    first, last = int(filled[0]), int(filled[-1]) + 1
    width = -(-(last - first) // BINS)
    starts = np.arange(first, last, width)
    ends = np.append(starts[1:], min(_FINE_BINS, starts[-1] + width))
    return Histogram(np.append(edges[starts], edges[ends[-1]]), np.add.reduceat(fine[: ends[-1]], starts))
