"""What every solver is given, and what every solver gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from skillaxes.pca.row_scores import KeptRows
    from skillaxes.pca.stability import Stability


@dataclass(frozen=True)
class Problem:
    """One principal component problem, as the solvers see it.

    Attributes
    ----------
    n_rows : rows of the whole store, those of other processes included
    n_columns : columns in use, d
    n_components : directions wanted, k
    block_size : columns of one block of the basis, l, a multiple of 16 or ``n_columns``
    tolerance : on ||C v - lambda v|| / lambda
    min_reads, max_reads : fewest and most reads of the block Krylov iteration
    seed : of everything random
    device : where panels lie
    panel_rows : rows a panel
    panel_dtype : the store's dtype
    layers : columns of each layer in use; empty where the store has no layers
    skip_bad_rows : leave rows with NaN or infinity out instead of failing
    exact_block : multiply the first block as it is, without rounding it to the dtype of the product
    """

    n_rows: int
    n_columns: int
    n_components: int
    block_size: int
    tolerance: float
    max_reads: int
    seed: int
    device: torch.device
    panel_rows: int
    panel_dtype: torch.dtype
    layers: tuple[slice, ...] = ()
    skip_bad_rows: bool = False
    min_reads: int = 2
    exact_block: bool = False


@dataclass(frozen=True)
class PCAResult:
    """Principal directions, and how far they can be trusted.

    All on the CPU in float64 unless said otherwise; k directions, d columns, r >= k.

    Attributes
    ----------
    components : Tensor of shape (k, d), unit rows; the entry of largest magnitude is positive
    mean : Tensor of shape (d,), of the rows (scaled, if the problem was)
    explained_variance : Tensor of shape (k,), eigenvalues of the covariance with n - 1
    total_variance : trace of that covariance
    residuals : Tensor of shape (k,), ||C v - lambda v|| / lambda
    angle_bounds : Tensor of shape (k,), radians, on the angle to the exact direction
    bound_rigorous : whether the bound needs no assumption on the eigenvalues that were not computed
    n_samples : rows that counted
    reads : reads of the store that the solver made
    converged : whether every residual is below the tolerance, or as near to zero as float32 products get
    layer_variance : Tensor of shape (n_layers,), variance summed over each layer's columns; empty without layers
    """

    components: Tensor
    mean: Tensor
    explained_variance: Tensor
    total_variance: float
    residuals: Tensor
    angle_bounds: Tensor
    bound_rigorous: bool
    n_samples: int
    reads: int
    converged: bool
    layer_variance: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))

    @property
    def explained_variance_ratio(self) -> Tensor:
        """Share of the total variance, of shape (k,)."""
        return self.explained_variance / max(self.total_variance, torch.finfo(torch.float64).tiny)

    @property
    def singular_values(self) -> Tensor:
        """Singular values of the centred matrix, of shape (k,)."""
        return (self.explained_variance.clamp(min=0) * (self.n_samples - 1)).sqrt()


def signs(directions: Tensor) -> Tensor:
    """+1 or -1 for each row of ``directions`` (k, d): the sign of its entry of largest magnitude.

    scikit-learn's V-based ``svd_flip``.
    """
    largest = directions.abs().argmax(dim=1, keepdim=True)
    return torch.where(directions.gather(1, largest)[:, 0] < 0, -1.0, 1.0).to(directions.dtype)


MULTIPLE = 16  # matrix products like a multiple of it


def rounded_up(columns: int) -> int:
    """The columns that a block of so many takes."""
    return -(-columns // MULTIPLE) * MULTIPLE


@dataclass(frozen=True)
class Solved:
    """Directions, and what is left of every row.

    Attributes
    ----------
    result : the directions
    stability : how they vary between halves of the rows
    kept : every row against the k components and the random directions
    scale : Tensor of shape (d,), float32: the factor of each column; None where rows were taken as they are
    bad : ndarray of the rows that were left out, int64
    """

    result: PCAResult
    stability: Stability
    kept: KeptRows
    scale: Tensor | None
    bad: np.ndarray
