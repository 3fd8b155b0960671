"""The scores that rows can be ranked by, as a run folder holds them: in ``topk.parquet`` and behind ``scores.zarr``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skillaxes.run_folder import formats

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ScoreBlock(NamedTuple):
    """Some rows of ``scores.zarr`` and what belongs to their k directions; all float32.

    Attributes
    ----------
    projection : (n, k), of the rows less the mean
    norm, centered_norm : (n,), of the rows and of the rows less the mean
    along_mean : (k,), projection of the mean row
    deviation : (k,), standard deviation of the projections
    """

    projection: NDArray[np.float32]
    norm: NDArray[np.float32]
    centered_norm: NDArray[np.float32]
    along_mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


class StoredScore(NamedTuple):
    """One score.

    Attributes
    ----------
    title : its name for people, with the unit of ``values``
    topk_column : its column of ``topk.parquet``
    values : (n, k) scores of a block of rows; NaN or infinity where a row has none
    limit : histograms cover ``-limit`` to ``limit``
    listed_alike : whether ``topk_column`` has the unit of ``values``
    """

    title: str
    topk_column: str
    values: Callable[[ScoreBlock], NDArray[np.float32]]
    limit: float
    listed_alike: bool


STORED_SCORES = {
    formats.RAW_COSINE: StoredScore(
        "Raw cosine",
        "cosine",
        lambda rows: (rows.projection + rows.along_mean) / rows.norm[:, None],
        limit=1.0,
        listed_alike=True,
    ),
    formats.CENTERED_COSINE: StoredScore(
        "Centred cosine",
        "cosine_centered",
        lambda rows: rows.projection / rows.centered_norm[:, None],
        limit=1.0,
        listed_alike=True,
    ),
    formats.PROJECTION: StoredScore(
        "Projection, in standard deviations",
        "projection",
        lambda rows: rows.projection / rows.deviation,
        limit=12.0,
        listed_alike=False,
    ),
}
