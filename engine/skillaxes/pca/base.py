"""A principal component problem, the protocols of solvers and of reads, and what a solver returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from skillaxes.cluster.world import World
    from skillaxes.config import SolverConfig
    from skillaxes.pca.projections import ProjectionStore
    from skillaxes.pca.row_scores import RowScores
    from skillaxes.pca.stability import Stability
    from skillaxes.pca.warm_start import WarmStart
    from skillaxes.run_folder.checkpoint import RowTable
    from skillaxes.stream.device import DeferredResults
    from skillaxes.stream.panel import Panel

MULTIPLE = 16  # matrix products like a multiple of it
MEAN_COLUMNS = 2  # of a block: they carry the mean (first read) or its correction (second), as high and low part
RANDOM_DIRECTIONS = 20  # ranked beside the components, as a baseline for labels


@dataclass(frozen=True)
class Problem:
    """One principal component problem.

    Attributes
    ----------
    n_rows : rows of the whole store, those of other processes included
    n_columns : columns in use, d
    dtype : of the panels, the store's
    device : where panels lie
    options : what was asked for
    layers : columns of each layer in use; empty where the store has no layers
    skip_bad_rows : leave rows with NaN or infinity out instead of failing
    storage_bound : rows arrive slower than they are multiplied, as on a GPU
    panel_rows : rows a panel; 0 until the job is planned
    block_columns : columns of one block of the basis, l, a multiple of 16; 0 until the job is planned
    """

    n_rows: int
    n_columns: int
    dtype: torch.dtype
    device: torch.device
    options: SolverConfig
    layers: tuple[slice, ...] = ()
    skip_bad_rows: bool = False
    storage_bound: bool = False
    panel_rows: int = 0
    block_columns: int = 0

    @property
    def n_components(self) -> int:
        """Directions wanted, k."""
        return self.options.components


@dataclass(frozen=True)
class Requirements:
    """All that planning asks of a solver.

    Attributes
    ----------
    block_columns : columns of one block of the basis, l
    reads : reads of the store that are expected, without the one for ``--scale``
    kept_blocks : blocks whose bases, products and projections are held at once
    basis_bytes : of bases, products, sums and what orthonormalises them
    float_rows : whether the solver needs the rows themselves, in float32
    block_traffic : bytes that each process hands to sums and to broadcasts in a first read that finds a block; None
        where there is no such read
    solves : whether a read ends in a Rayleigh-Ritz problem
    reasons : why this solver
    """

    block_columns: int
    reads: int
    kept_blocks: int
    basis_bytes: int
    float_rows: bool = False
    block_traffic: tuple[int, int] | None = None
    solves: bool = True
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scope:
    """What a solver works with besides its state.

    Attributes
    ----------
    world : the processes that share the job
    projections : where kept projections go; knows the rows of this process
    results : what the panels of a GPU send back to the host
    scale : Tensor of shape (d,), float32: the factor of each column; None where rows are taken as they are
    """

    world: World
    projections: ProjectionStore
    results: DeferredResults
    scale: Tensor | None = None


class Reduction(Protocol):
    """One read of the store, as what it adds up.

    Attributes
    ----------
    title : follows "read 1" in the name of the stage, in brackets; empty for a read of the block Krylov iteration
    """

    title: str

    def begin(self) -> None:
        """Make room for the sums; processes agree on what they multiply by. Called once, before anything else."""

    def update(self, panel: Panel) -> None:
        """Add one panel."""

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, as plain values; nothing is on its way to them afterwards."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Put sums back, before the first panel."""

    def row_tables(self) -> Mapping[str, RowTable]:
        """The numbers of every row that the read leaves, by the name of their file in a checkpoint."""


class SolverState(Protocol):
    """A solver's state between two reads: a value that knows how it is saved."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values, but for the numbers of every row."""

    def row_tables(self) -> Mapping[str, RowTable]:
        """The numbers of every row that the state keeps, by the name of their file in a checkpoint."""


State = TypeVar("State", bound=SolverState)


class Solver(ABC, Generic[State]):
    """A method that finds directions in some reads of a store; one file of ``pca/``, one line of ``solvers.SOLVERS``.

    The loop that runs a solver is :func:`skillaxes.run.driver.solve`.

    Attributes
    ----------
    name : the name that a user chooses it by
    remedy : the advice where the tolerance was not reached
    scale : Tensor of shape (d,), float32: factors of the columns that come with the solver; None but for given
        directions
    """

    name: str
    remedy: str = "use --solver krylov"
    scale: Tensor | None = None

    @abstractmethod
    def requirements(self, problem: Problem) -> Requirements:
        """What the solver will need, before anything is read."""

    def start_directions(self, problem: Problem) -> int:
        """Directions that the warm start is asked for; 0 where the provisional mean is enough."""
        return 0

    @abstractmethod
    def init(self, problem: Problem, start: WarmStart, scope: Scope) -> State:
        """The state before the first read."""

    @abstractmethod
    def load(self, saved: dict[str, Any], problem: Problem, scope: Scope) -> State:
        """The state whose ``state_dict`` was saved, with empty row tables."""

    @abstractmethod
    def next_read(self, state: State) -> Reduction | None:
        """The coming read, not begun; None where no further one is needed."""

    @abstractmethod
    def finish_read(self, state: State, read: Any) -> State:
        """The state after a complete read."""

    @abstractmethod
    def solution(self, state: State) -> Solution:
        """Directions, stability and row scores, from what the reads left."""

    def record(self, state: State, read: Any) -> dict[str, Any]:
        """Facts of a complete read for its stage in the manifest."""
        return {}

    def remark(self, state: State) -> str:
        """One line on how far the solver has come; empty where there is nothing to say."""
        return ""


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


@dataclass(frozen=True)
class Solution:
    """Directions, and the scores of every row.

    Attributes
    ----------
    result : the directions
    stability : how they vary between halves of the rows
    rows : every row against the k components and the random directions
    scale : Tensor of shape (d,), float32: the factor of each column; None where rows were taken as they are
    bad_rows : ndarray of the rows that were left out, int64
    searched : whether the directions were found here; given ones have no tolerance to reach
    """

    result: PCAResult
    stability: Stability
    rows: RowScores
    scale: Tensor | None
    bad_rows: np.ndarray
    searched: bool = True


def signs(directions: Tensor) -> Tensor:
    """+1 or -1 for each row of ``directions`` (k, d): the sign of its entry of largest magnitude.

    scikit-learn's V-based ``svd_flip``.
    """
    largest = directions.abs().argmax(dim=1, keepdim=True)
    return torch.where(directions.gather(1, largest)[:, 0] < 0, -1.0, 1.0).to(directions.dtype)


def rounded_up(columns: int) -> int:
    """The columns that a block of so many takes."""
    return -(-columns // MULTIPLE) * MULTIPLE


def basis_bytes(n_columns: int, block_columns: int, kept_blocks: int) -> int:
    """Bytes of bases in float32, and of products, sums and what orthonormalises them in float64."""
    return n_columns * block_columns * (12 * kept_blocks + 48)


def compact(tensor: Tensor) -> Tensor:
    """``tensor`` on the host, in memory that holds nothing else: torch saves all of what a view looks into.

    Strides stay, since a matrix product may sum in another order where they differ.
    """
    tensor = tensor.detach().cpu()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
