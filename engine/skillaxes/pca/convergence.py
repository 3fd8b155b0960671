"""When the iteration may stop: residuals against the tolerance, and against what float32 products can resolve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skillaxes.pca.rayleigh_ritz import RitzPairs

EPSILON = torch.finfo(torch.float32).eps
ZERO = 1e-13  # of the largest eigenvalue: what rows of lower rank leave in float32
BLURRED = 4.0  # times the estimated rounding, up to which a residual may be nothing but rounding


def precision(values: Tensor) -> Tensor:
    """The residual that float32 products leave in the best of cases, for eigenvalues ``values`` (r,), absolute.

    A projection on direction i carries the rounding of rows whose length is that of direction 0.
    """
    largest = values[0].clamp(min=0)
    return BLURRED * EPSILON * (largest * values.clamp(min=0)).sqrt() + ZERO * largest


def blur(products: Sequence[Tensor], ritz: RitzPairs, n_components: int) -> Tensor:
    """About the rounding in the residuals of the leading Ritz pairs, of shape (k,), absolute.

    Each product C omega is exact to float32's precision of its own length; its weight in a Ritz vector decides how much
    of that is seen.
    """
    lengths = torch.cat([torch.linalg.vector_norm(product, dim=0) for product in products]).double()
    return EPSILON * torch.linalg.vector_norm(lengths[:, None] * ritz.weights[:, :n_components], dim=0)


def is_last(worst: Sequence[float], tolerance: float) -> bool:
    """Whether the next read will be the last: it need gain only half of what the read before gained.

    Parameters
    ----------
    worst : the largest relative residual after each read so far
    """
    if len(worst) < 2:
        return False
    gain = worst[-1] / max(worst[-2], 1e-300)
    return 2 * gain * worst[-1] < tolerance
