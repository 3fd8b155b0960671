"""Which rows the warm start sees: short runs spread over the whole store, from the number of rows and the seed
alone.
"""

from __future__ import annotations

import itertools

import numpy as np

SEGMENT = 32  # rows read side by side: one seek each


def sample_segments(n_rows: int, n_sample: int, seed: int) -> list[tuple[int, int]]:
    """(start, stop) of disjoint segments with about ``n_sample`` rows in all, one at a random place of each equal
    stretch.

    The chunking plays no part, so that another chunking of the same rows gives the same sample.
    """
    if n_sample >= n_rows:
        return [(0, n_rows)]
    count = max(1, n_sample // SEGMENT)
    length = min(SEGMENT, n_sample)
    rng = np.random.default_rng([seed, n_rows])
    edges = np.linspace(0, n_rows, count + 1).astype(np.int64)
    starts = [int(rng.integers(low, max(low, high - length) + 1)) for low, high in itertools.pairwise(edges)]
    return [(start, min(start + length, n_rows)) for start in starts]
