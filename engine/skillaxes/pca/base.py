"""The principal component problem, the protocols of solvers and reads, and the result of a solver."""

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

MULTIPLE = 16  # of the columns of a block: matrix products are fastest there
MEAN_COLUMNS = 2  # of a block: high and low part of the mean in the first read, of its correction in the later ones
RANDOM_DIRECTIONS = 20  # ranked like the components, as a baseline for labels


@dataclass(frozen=True)
class Problem:
    """One principal component problem.

    Attributes
    ----------
    n_rows : rows of the whole store, those of other processes included
    n_columns : columns in use, d
    dtype : dtype of the store and of the panels
    device : device of the panels
    options : number of components, tolerance, limits, scale and seed
    layers : columns of each layer in use; empty where the store has no layers
    skip_bad_rows : whether rows with NaN or infinity are left out; they are an error if not
    storage_bound : whether rows arrive slower than they are multiplied, as on a GPU
    panel_rows : rows of a panel; 0 until the job is planned
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
        """Directions to find, k."""
        return self.options.components


@dataclass(frozen=True)
class Requirements:
    """Memory, reads and traffic of a solver, for the plan of a job.

    Attributes
    ----------
    block_columns : columns of one block of the basis, l
    reads : expected reads of the store, without the one for ``--scale``
    kept_blocks : blocks whose bases, products and projections are held at once
    basis_bytes : bytes of bases, products and sums, and of the buffers for orthonormalisation
    float_rows : whether the solver needs the rows themselves, in float32
    block_traffic : bytes that each process gives to all_reduce and to broadcast in a first read that finds a block;
        None where there is no such read
    solves : whether a read ends in a Rayleigh-Ritz problem
    reasons : reasons for this solver
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
    """The surroundings of a solver: processes, tables and results of a device.

    Attributes
    ----------
    world : the processes that share the job
    projections : tables of the kept projections, for the rows of this process
    results : results of a GPU on their way to the host
    scale : Tensor of shape (d,), float32: the factor of each column; None where rows are not scaled
    """

    world: World
    projections: ProjectionStore
    results: DeferredResults
    scale: Tensor | None = None


class Reduction(Protocol):
    """The sums of one read of the store.

    Attributes
    ----------
    title : suffix of the name of the stage, as in "read 1 (covariance)"; empty for a read of the block Krylov
        iteration
    """

    title: str

    def begin(self) -> None:
        """Allocate the sums and broadcast the block. Called once, before every other method."""

    def update(self, panel: Panel) -> None:
        """Add one panel."""

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, as plain values, with all pending results of a device included."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the sums, before the first panel."""

    def row_tables(self) -> Mapping[str, RowTable]:
        """Tables of the numbers of every row that the read computes, by the name of their file in a checkpoint."""


class SolverState(Protocol):
    """A solver's state between two reads, with the methods that save it."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values, without the numbers of every row."""

    def row_tables(self) -> Mapping[str, RowTable]:
        """Tables of the numbers of every row, by the name of their file in a checkpoint."""


State = TypeVar("State", bound=SolverState)


class Solver(ABC, Generic[State]):
    """A method that finds directions in some reads of a store; one file of ``pca/``, one line of ``solvers.SOLVERS``.

    The loop that runs a solver is :func:`skillaxes.run.driver.solve`.

    Attributes
    ----------
    name : its name on the command line
    remedy : the advice to a user whose tolerance was not reached
    scale : Tensor of shape (d,), float32: factors of the columns that belong to given directions; None for directions
        to find
    """

    name: str
    remedy: str = "use --solver krylov"
    scale: Tensor | None = None

    @abstractmethod
    def requirements(self, problem: Problem) -> Requirements:
        """Requirements of the solver, before any read."""

    def start_directions(self, problem: Problem) -> int:
        """Directions of the warm start; 0 where the provisional mean is enough."""
        return 0

    @abstractmethod
    def init(self, problem: Problem, start: WarmStart, scope: Scope) -> State:
        """The state before the first read."""

    @abstractmethod
    def load(self, saved: dict[str, Any], problem: Problem, scope: Scope) -> State:
        """The state from its ``state_dict``, with empty row tables."""

    @abstractmethod
    def next_read(self, state: State) -> Reduction | None:
        """The next read, before its ``begin``; None when the solver is done."""

    @abstractmethod
    def finish_read(self, state: State, read: Any) -> State:
        """The state after a complete read."""

    @abstractmethod
    def solution(self, state: State) -> Solution:
        """Directions, stability and row scores, after the last read."""

    def record(self, state: State, read: Any) -> dict[str, Any]:
        """Figures of a complete read for its stage in the manifest."""
        return {}

    def remark(self, state: State) -> str:
        """One line on the progress of the solver; empty for none."""
        return ""


@dataclass(frozen=True)
class PCAResult:
    """Principal directions with their residuals and error bounds: k directions, d columns.

    All tensors are float64 and on the CPU.

    Attributes
    ----------
    components : Tensor of shape (k, d), unit rows; the entry of largest magnitude is positive
    mean : Tensor of shape (d,), of the rows, or of the scaled rows
    explained_variance : Tensor of shape (k,), eigenvalues of the covariance with n - 1
    total_variance : trace of the covariance
    residuals : Tensor of shape (k,), ||C v - lambda v|| / lambda
    angle_bounds : Tensor of shape (k,), radians: upper bounds on the angle to the exact direction
    bound_rigorous : whether the bounds need no assumption on the eigenvalues that were not computed
    n_samples : rows that count
    reads : reads of the store by the solver
    converged : whether every residual is below the tolerance, or as near to zero as float32 products get
    layer_variance : Tensor of shape (n_layers,): variance summed over the columns of each layer; empty without layers
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
        """Share of the total variance, Tensor of shape (k,)."""
        return self.explained_variance / max(self.total_variance, torch.finfo(torch.float64).tiny)

    @property
    def singular_values(self) -> Tensor:
        """Singular values of the centred matrix, Tensor of shape (k,)."""
        return (self.explained_variance.clamp(min=0) * (self.n_samples - 1)).sqrt()


@dataclass(frozen=True)
class Solution:
    """The result of a solver: directions, and the scores of every row.

    Attributes
    ----------
    result : the directions
    stability : variation of the directions between halves of the rows
    rows : scores of every row on the k components, then on the random directions
    scale : Tensor of shape (d,), float32: the factor of each column; None where rows were not scaled
    bad_rows : ndarray, int64: rows that were left out
    searched : whether the directions were searched for; given ones have no tolerance to reach
    """

    result: PCAResult
    stability: Stability
    rows: RowScores
    scale: Tensor | None
    bad_rows: np.ndarray
    searched: bool = True


def signs(directions: Tensor) -> Tensor:
    """The sign of the entry of largest magnitude of each row of ``directions`` (k, d): +1 or -1, of shape (k,).

    The same as scikit-learn's ``svd_flip`` with ``u_based_decision=False``.
    """
    largest = directions.abs().argmax(dim=1, keepdim=True)
    return torch.where(directions.gather(1, largest)[:, 0] < 0, -1.0, 1.0).to(directions.dtype)


def rounded_up(columns: int) -> int:
    """``columns`` rounded up to a multiple of 16."""
    return -(-columns // MULTIPLE) * MULTIPLE


def basis_bytes(n_columns: int, block_columns: int, kept_blocks: int) -> int:
    """Bytes of bases in float32, and of products, sums and buffers for orthonormalisation in float64."""
    return n_columns * block_columns * (12 * kept_blocks + 48)


def compact(tensor: Tensor) -> Tensor:
    """``tensor`` on the host in memory of its own, with the same strides.

    torch saves the whole storage of a view. With other strides a matrix product may sum in another order.
    """
    tensor = tensor.detach().cpu()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
