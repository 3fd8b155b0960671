"""The table of scores that rank rows, by their name in ``--rank-by``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skillaxes.pca.row_scores import RowBlock
from skillaxes.run_folder.schema import CENTERED_COSINE, PROJECTION, RAW_COSINE


class Score(NamedTuple):
    """A score of every row on every direction.

    Attributes
    ----------
    name : one of :data:`skillaxes.run_folder.schema.RANKINGS`
    of : scores of a block of n rows on r directions, of shape (n, r), float64; 0 for rows without one
    rankable : whether each row of a block has a score, of shape (n,), bool
    to_cosine : scores of any shape, scaled so that an angle bounds their error as it does that of a cosine; the second
        argument is the largest norm of a centred row
    needs_centered_norms : whether the norms of centred rows must be known, for which given directions need a second
        read where the mean is the store's own
    """

    name: str
    of: Callable[[RowBlock], Tensor]
    rankable: Callable[[RowBlock], Tensor]
    to_cosine: Callable[[Tensor, float], Tensor] = lambda values, largest_norm: values
    needs_centered_norms: bool = False


def _cosines(products: Tensor, norms: Tensor) -> Tensor:
    return torch.where(norms[:, None] > 0, products / norms.clamp(min=1e-300)[:, None], 0.0).clamp(-1, 1)


def _not_zero(block: RowBlock) -> Tensor:
    """Rows with a cosine: neither bad nor zero."""
    return ~block.bad & (block.norm > 0)


SCORES = {
    score.name: score
    for score in (
        Score(RAW_COSINE, lambda block: _cosines(block.raw, block.norm), _not_zero),
        Score(
            CENTERED_COSINE,
            lambda block: _cosines(block.projection, block.centered_norm),
            lambda block: _not_zero(block) & (block.centered_norm > 0),  # a row equal to the mean has none
            needs_centered_norms=True,
        ),
        Score(
            PROJECTION,
            lambda block: block.projection,
            _not_zero,
            lambda values, largest_norm: values / largest_norm if largest_norm > 0 else values,
        ),
    )
}
