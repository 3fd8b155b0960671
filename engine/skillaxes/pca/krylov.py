"""Block Krylov principal components: one read of the store a step, usually two or three in all.

Musco & Musco 2015, algorithm 2, warm-started (Wang et al., arXiv 1508.06429), with Rayleigh-Ritz on the kept
projections.

One read multiplies the covariance by a thin block: S = (X - m) Omega, Z += (X - m)ᵀ S. The basis is the block as the
kernel multiplied it, rounding included. Half-precision products therefore lose nothing: the Rayleigh-Ritz problem is
solved as a generalised one.

:class:`Basis` holds the complete reads, :class:`KrylovRead` the sums of the read under way and :class:`KrylovState` the
iteration between two reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import skillaxes_kernels as kernels
from skillaxes.pca.base import (
    MEAN_COLUMNS,
    RANDOM_DIRECTIONS,
    PCAResult,
    Problem,
    Requirements,
    Scope,
    Solution,
    Solver,
    basis_bytes,
    compact,
    rounded_up,
    signs,
)
from skillaxes.pca.orthonormal import gram, orthonormalize, overlaps, pseudo_inverse
from skillaxes.pca.projections import Projections
from skillaxes.pca.rayleigh_ritz import RitzPairs, angle_bounds, combine, rayleigh_ritz, residual_norms, whiten
from skillaxes.pca.row_moments import MomentRows, RowMoments
from skillaxes.pca.row_scores import RowScores, row_scores
from skillaxes.pca.stability import GroupedGrams, split_half
from skillaxes.pca.warm_start import WarmStart
from skillaxes.stream.panel import Panel

# Columns of a block beyond k, before rounding up. A CPU is bound by its products: 2 reads with 48 columns (k = 10) and
# one with 16 cost it 112 columns of products, 2 reads with 96 cost 192 and leave residuals ten times larger. A GPU
# multiplies 96 columns while the next rows arrive, so it is bound by its reads: 96 columns are within the default
# tolerance after two reads of real activations (residual 3e-4), 48 after three (5e-5).
OVERSAMPLING = 32
OVERSAMPLING_STORAGE_BOUND = 80
OVERSAMPLING_LAST = 4  # of the read that is predicted to be the last
FLUSH = 16  # panels whose products are summed in float32 before they join the float64 sum
PLANNED_READS = 3  # reads whose blocks and projections are planned for
MOMENT_ROWS = "rows-krylov"  # the file of the row moments in a checkpoint
EPSILON = torch.finfo(torch.float32).eps
ZERO = 1e-13  # of the largest eigenvalue: a zero eigenvalue is no larger than this after float32 products
ROUNDING_MARGIN = 4.0  # times the estimated rounding: a residual up to this may be rounding alone


@dataclass(frozen=True)
class Iteration:
    """How often the store is read, and how blocks are treated.

    Attributes
    ----------
    least_reads, most_reads : reads of the store
    rounds_basis : whether a block is rounded to the dtype of the product before it joins the basis
    solves : whether a read ends in a Rayleigh-Ritz problem; given directions have none
    """

    least_reads: int
    most_reads: int
    rounds_basis: bool = True
    solves: bool = True


@dataclass(frozen=True)
class Basis:
    """The complete reads: p blocks of l columns each, for d columns in use.

    Attributes
    ----------
    blocks : p tensors of shape (d, l), float32: the blocks as multiplied, mean columns zeroed
    products : p tensors of shape (d, l), float64: C Omega of each read
    tables : p tables of kept projections, of l - 1 columns each
    holds_mean_correction : whether the last column of each table holds (x - m)·delta; it holds (x - m)·m if not
    gram : KᵀK of shape (p l, p l), float64
    grouped_grams : SᵀS of the kept projections, by group of rows
    """

    blocks: tuple[Tensor, ...]
    products: tuple[Tensor, ...]
    tables: tuple[Projections, ...]
    holds_mean_correction: tuple[bool, ...]
    gram: Tensor
    grouped_grams: GroupedGrams

    @classmethod
    def empty(cls, problem: Problem, scope: Scope) -> Basis:
        """No read yet."""
        grams = GroupedGrams(problem.options.seed, scope.projections.first_row, scope.projections.n_rows)
        return cls((), (), (), (), torch.empty((0, 0), dtype=torch.float64, device=problem.device), grams)

    @property
    def widths(self) -> list[int]:
        """Columns of each block."""
        return [block.shape[1] for block in self.blocks]


@dataclass(frozen=True)
class KrylovState:
    """The block Krylov iteration between two reads. d columns in use, k components.

    Attributes
    ----------
    problem, scope, iteration : the problem, the surroundings of the solver, and the number and kind of reads
    moments : counts, norms and bad rows of the rows; complete after the first read
    shift : Tensor of shape (d,), float64: the provisional mean m
    next_block : Tensor of shape (d, b), float64: the block of the next read
    basis : the complete reads since the last restart
    reads : complete reads, those before a restart included
    ritz, residual_norms : the last solution, and ||C v - theta v|| of its first k pairs, of shape (k,), float64; None
        before the first read is complete
    max_residuals : the largest relative residual after each read
    done : whether no further read is needed
    """

    problem: Problem
    scope: Scope
    iteration: Iteration
    moments: RowMoments
    shift: Tensor
    next_block: Tensor
    basis: Basis
    reads: int = 0
    ritz: RitzPairs | None = None
    residual_norms: Tensor | None = None
    max_residuals: tuple[float, ...] = ()
    done: bool = False

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values, without the numbers of every row."""
        moments, basis, ritz = self.moments, self.basis, self.ritz
        return {
            "shift": compact(self.shift),
            "next_block": compact(self.next_block),
            "blocks": [compact(block) for block in basis.blocks],
            "products": [compact(product) for product in basis.products],
            "widths": [table.width for table in basis.tables],
            "holds_mean_correction": list(basis.holds_mean_correction),
            "gram": compact(basis.gram),
            "gram_products": compact(basis.grouped_grams.products),
            "gram_sums": compact(basis.grouped_grams.sums),
            "reads": self.reads,
            "ritz": None if ritz is None else [compact(ritz.values), compact(ritz.weights)],
            "residual_norms": None if self.residual_norms is None else compact(self.residual_norms),
            "max_residuals": list(self.max_residuals),
            "done": self.done,
            "moments": moments.state_dict(),
        }

    @classmethod
    def load(cls, saved: dict[str, Any], problem: Problem, scope: Scope, iteration: Iteration) -> KrylovState:
        """The state from its ``state_dict``, with empty row tables."""
        device = problem.device
        fresh = init(problem, WarmStart(saved["shift"], saved["next_block"].to(device), 0), scope, iteration)
        grams = fresh.basis.grouped_grams
        grams.products, grams.sums = saved["gram_products"], saved["gram_sums"]
        ritz = saved["ritz"]
        return replace(
            fresh,
            moments=fresh.moments.loaded(saved["moments"]),
            basis=Basis(
                blocks=tuple(block.to(device) for block in saved["blocks"]),
                products=tuple(product.to(device) for product in saved["products"]),
                tables=tuple(scope.projections.new(width) for width in saved["widths"]),
                holds_mean_correction=tuple(saved["holds_mean_correction"]),
                gram=saved["gram"].to(device),
                grouped_grams=grams,
            ),
            reads=saved["reads"],
            ritz=None if ritz is None else RitzPairs(ritz[0].to(device), ritz[1].to(device)),
            residual_norms=None if saved["residual_norms"] is None else saved["residual_norms"].to(device),
            max_residuals=tuple(saved["max_residuals"]),
            done=saved["done"],
        )

    def row_tables(self) -> dict[str, Projections | MomentRows]:
        """The tables of numbers of every row, by the name of their file in a checkpoint."""
        first = self.reads - len(self.basis.blocks)
        tables: dict[str, Projections | MomentRows] = {
            _table_name(first + number): table for number, table in enumerate(self.basis.tables)
        }
        if self.moments.delta is not None:
            tables[MOMENT_ROWS] = MomentRows(self.moments)
        return tables


class KrylovRead:
    """One read, which keeps S = (X - m) Omega and sums Z = (X - m)ᵀ S, in float32 and every few panels in float64.

    Omega is the next block of the state, rounded to the dtype of the product.

    Parameters
    ----------
    state : the state before the read

    Attributes
    ----------
    block : Tensor of shape (d, l), float32: the block as multiplied, mean columns zeroed
    table : the kept projections
    total : Tensor of shape (d, l), float64: Z, with the sums of the columns in the first mean column
    bits : bits of the operands of Z that count
    width, basis_widths : columns of the block, and of each block of the basis with it
    reads_before : complete reads before it
    """

    title = ""

    def __init__(self, state: KrylovState) -> None:
        self.width = block_width(state)
        self.basis_widths = [*state.basis.widths, self.width]
        self._state = state
        self._moments, self._scale, self._results = state.moments, state.scope.scale, state.scope.results
        self._first = state.moments.delta is None
        self.reads_before = state.reads

    def begin(self) -> None:
        """Round the block, broadcast it and allocate the sums."""
        state = self._state
        del self._state  # a read outlives its state: a restart frees the blocks
        problem, scope, moments = state.problem, state.scope, state.moments
        carried = state.shift if moments.delta is None else moments.delta
        columns = torch.zeros((self.width, problem.n_columns), dtype=torch.float32, device=problem.device)
        columns[: state.next_block.shape[1]] = _rounded(state, state.next_block).T
        high = _rounded(state, carried[:, None])
        columns[-MEAN_COLUMNS:] = torch.cat([high, _rounded(state, carried[:, None] - high.double())], dim=1).T
        directions = columns.T.contiguous()
        scope.world.broadcast_(directions)  # other processors round other last digits
        self.block = directions.clone()
        self.block[:, -MEAN_COLUMNS:] = 0
        self.table = scope.projections.new(self.width - 1)  # l - 2 projections and the carried one
        self.total = _sums(problem, self.width, torch.float64)
        self.bits = scope.world.broadcast_object(accumulate_bits(state))
        self._partial = _sums(problem, self.width, torch.float32)
        self._panels_since_flush = 0
        spec = kernels.PanelSpec(problem.panel_rows, problem.n_columns, problem.dtype, problem.device)
        self._prepared = kernels.prepare(spec, directions, state.shift, scope.scale)
        self._shift_square = state.shift.square().sum()  # here: torch sums in two threads, and a panel waits for both

    @property
    def on_device(self) -> bool:
        """Whether panels are multiplied on a GPU."""
        return self._results.deferred

    def update(self, panel: Panel) -> None:
        """Add one panel.

        Raises
        ------
        BadRowsError : rows with NaN or infinity in the first read, unless they are to be skipped
        """
        count = panel.count
        projection = kernels.project(
            panel.pieces,
            self._prepared,
            bad=None if self._first or self.on_device else self._moments.known_bad(panel),
        )
        carried = projection.dots[:count, -MEAN_COLUMNS] + projection.dots[:count, -MEAN_COLUMNS + 1]
        if self._first:
            self._moments.add(panel, projection, carried, self._shift_square, self._scale, self._results)
        weights = projection.dots
        weights[:count, -MEAN_COLUMNS] = carried
        weights[count:] = 0
        bad = projection.bad[:, None]
        if self.on_device or bool(bad.any()):  # torch hands each such pass to all threads
            weights.masked_fill_(bad, 0)
        self._results.submit(partial(_write_rows, self.table, panel.start), weights[:count, : -MEAN_COLUMNS + 1])
        # One more column of Z: the sums of the columns.
        weights[:count, -MEAN_COLUMNS] = ~projection.bad[:count]
        weights[:, -MEAN_COLUMNS + 1] = 0
        kernels.accumulate(self._partial, projection, weights, bits=self.bits)
        self._panels_since_flush += 1
        if self._panels_since_flush == FLUSH:
            self._flush()
            self._partial.zero_()
            self._panels_since_flush = 0

    def finish_sums(self) -> None:
        """Add the float32 sums to ``total`` after the last panel, and free the buffers."""
        self._results.flush()
        self._flush()
        del self._partial, self._prepared  # solving needs the memory

    def _flush(self) -> None:
        self.total.add_(self._partial.double())  # torch adds mixed dtypes three times as slowly

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, as plain values."""
        self._results.flush()
        return {
            "partial": compact(self._partial),
            "total": compact(self.total),
            "panels_since_flush": self._panels_since_flush,
            "layer_squares": compact(self._moments.layer_squares),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the sums, before the first panel."""
        self._partial.copy_(saved["partial"])
        self.total.copy_(saved["total"])
        self._moments.layer_squares.copy_(saved["layer_squares"])
        self._panels_since_flush = saved["panels_since_flush"]

    def row_tables(self) -> dict[str, Projections | MomentRows]:
        """The projections, and in the first read the moments of the rows."""
        tables: dict[str, Projections | MomentRows] = {_table_name(self.reads_before): self.table}
        if self._first:
            tables[MOMENT_ROWS] = MomentRows(self._moments)
        return tables


class Krylov(Solver[KrylovState]):
    """Block Krylov iteration from a warm start, until every residual is below the tolerance."""

    name = "krylov"
    remedy = "allow more reads with --max-reads"

    def requirements(self, problem: Problem) -> Requirements:
        """Two or three reads, each of a block of k columns and oversampling."""
        options = problem.options
        columns = block_columns(options.components, problem.n_columns, storage_bound=problem.storage_bound)
        reads = min(PLANNED_READS, options.max_reads)
        return Requirements(
            block_columns=columns,
            reads=reads,
            kept_blocks=reads,
            basis_bytes=basis_bytes(problem.n_columns, columns, reads),
        )

    def iteration(self, problem: Problem) -> Iteration:
        """At least two reads, at most ``max_reads``."""
        return Iteration(least_reads=2, most_reads=problem.options.max_reads)

    def start_directions(self, problem: Problem) -> int:
        """A whole block."""
        return problem.block_columns - MEAN_COLUMNS

    def init(self, problem: Problem, start: WarmStart, scope: Scope) -> KrylovState:
        """The state before the first read."""
        return init(problem, start, scope, self.iteration(problem))

    def load(self, saved: dict[str, Any], problem: Problem, scope: Scope) -> KrylovState:
        """The state from its ``state_dict``, with empty row tables."""
        return KrylovState.load(saved, problem, scope, self.iteration(problem))

    def next_read(self, state: KrylovState) -> KrylovRead | None:
        """The next read; None when every residual is within the tolerance or no read is left."""
        return None if state.done else KrylovRead(state)

    def finish_read(self, state: KrylovState, read: KrylovRead) -> KrylovState:
        """The state after a complete read: solved, and either done or with the next block."""
        return solve(with_read(state, read))

    def solution(self, state: KrylovState) -> Solution:
        """Directions, stability and the scores of every row."""
        options, world = state.problem.options, state.scope.world
        k = options.components
        result, weights = world.broadcast_object(finalize(state))
        stability = split_half(state.basis.grouped_grams, state.moments.bad, weights, k, options.seed, world)
        generator = torch.Generator().manual_seed(options.seed + 1)
        mixing = torch.randn((weights.shape[1], RANDOM_DIRECTIONS), generator=generator, dtype=torch.float64)
        mixing /= torch.linalg.vector_norm(mixing, dim=0)
        combined = torch.cat([weights[:, :k], weights @ mixing], dim=1)
        return Solution(result, stability, scored_rows(state, combined), state.scope.scale, bad_rows(state))

    def record(self, state: KrylovState, read: Any) -> dict[str, Any]:
        """Matrix products of the read (kind, dtype of the operands, rows, columns) and columns of each block of its
        basis.
        """
        if not isinstance(read, KrylovRead):
            return {}
        project = str(state.problem.dtype if read.on_device else torch.float32).removeprefix("torch.")
        accumulate = "bfloat16" if read.bits == 8 and not read.on_device else project
        shape = {"rows": state.scope.projections.n_rows, "columns": read.width}
        products = [
            {"kind": kind, "dtype": "float32" if dtype == "float64" else dtype, **shape}
            for kind, dtype in (("project", project), ("accumulate", accumulate))
        ]
        return {"products": products, "basis": read.basis_widths}

    def remark(self, state: KrylovState) -> str:
        """The largest residual."""
        if not state.max_residuals and state.ritz is None:
            return ""
        largest = float(relative_residuals(state).max())
        return f"largest residual {largest:.1e} (tolerance {state.problem.options.tolerance:.0e})"


def init(problem: Problem, start: WarmStart, scope: Scope, iteration: Iteration) -> KrylovState:
    """The state before the first read."""
    return KrylovState(
        problem=problem,
        scope=scope,
        iteration=iteration,
        moments=RowMoments.empty(problem, scope.projections.first_row, scope.projections.n_rows),
        shift=start.shift.to(problem.device),
        next_block=start.block,
        basis=Basis.empty(problem, scope),
    )


def with_read(state: KrylovState, read: KrylovRead) -> KrylovState:
    """The state with the moments after the first read, and with the block and the product C Omega of this read.

    Raises
    ------
    BadRowsError : too few rows count
    StoreError : all rows are equal
    """
    read.finish_sums()
    total, moments = read.total, state.moments
    holds_mean_correction = moments.delta is not None
    state.scope.world.all_reduce_(total)
    if moments.delta is None:
        needed = 2 if not state.iteration.solves else max(2, state.problem.n_components)
        moments = moments.complete(total[:, -MEAN_COLUMNS].clone(), state.scope.world, needed)
    assert moments.delta is not None
    total[:, -MEAN_COLUMNS:] = 0
    means = gram(moments.delta[:, None], read.block)[0]  # of the kept projections
    total.addr_(moments.delta, means, alpha=-moments.n_samples).div_(moments.degrees)
    basis = replace(
        state.basis,
        blocks=(*state.basis.blocks, read.block),
        products=(*state.basis.products, total),
        tables=(*state.basis.tables, read.table),
        holds_mean_correction=(*state.basis.holds_mean_correction, holds_mean_correction),
    )
    return replace(state, moments=moments, basis=basis, reads=state.reads + 1)


def solve(state: KrylovState) -> KrylovState:
    """Solve the Rayleigh-Ritz problem on all blocks, measure the residuals, then stop or choose the next block."""
    problem, world, basis = state.problem, state.scope.world, state.basis
    new = basis.blocks[-1]
    cross = overlaps(basis.blocks, new)  # (p l, l)
    before = cross.shape[0] - cross.shape[1]
    above = torch.cat([basis.gram, cross[:before]], dim=1)
    basis_gram = torch.cat([above, torch.cat([cross[:before].T, cross[before:]], dim=1)])
    grams = basis.grouped_grams.extend(basis.tables, basis.widths, world)
    whitening = whiten(basis_gram)
    ritz = rayleigh_ritz(grams.covariance(state.moments.n_samples).to(whitening.device), whitening)
    k = problem.n_components
    norms = residual_norms(basis.blocks, basis.products, ritz.values[:k], ritz.weights[:, :k])
    basis = replace(basis, gram=basis_gram, grouped_grams=grams)
    state = replace(state, basis=basis, ritz=ritz, residual_norms=norms)
    # Broadcast: the width of the next block follows from it, and other processors round other last digits.
    largest = world.broadcast_object(float(relative_residuals(state).max()))
    state = replace(state, max_residuals=(*state.max_residuals, largest))
    limits = state.iteration
    done = state.reads >= limits.least_reads and (converged(state) or state.reads >= limits.most_reads)
    if world.broadcast_object(done):
        return replace(state, done=True)
    block = orthonormalize(_next_directions(state), basis.blocks, pseudo_inverse(basis_gram))
    block = block[:, : block_width(state) - MEAN_COLUMNS]
    if world.broadcast_object(block.shape[1] == 0 or is_rounding_limited(state)):
        return _restarted(state)
    return replace(state, next_block=block)


def finalize(state: KrylovState) -> tuple[PCAResult, Tensor]:
    """The directions and their bounds, and the weights of the kept projections in them.

    Returns
    -------
    result : the directions and their bounds
    weights : Tensor of shape (n_basis, r), float64, on the CPU: K @ weights is orthonormal and begins with the
        components
    """
    ritz, moments, basis, k = state.ritz, state.moments, state.basis, state.problem.n_components
    assert ritz is not None and state.residual_norms is not None and moments.delta is not None
    weights = ritz.weights
    components = combine(basis.blocks, weights[:, :k])
    lengths = torch.linalg.vector_norm(components, dim=0)
    factor = signs((components / lengths).T.float()).double() / lengths
    components = (components * factor).T
    weights = torch.cat([weights[:, :k] * factor, weights[:, k:]], dim=1)
    # In float32: the other pairs only bound how far the first ones can turn among them.
    others = residual_norms(basis.blocks, basis.products, ritz.values[k:], ritz.weights[:, k:].float())
    norms = torch.cat([state.residual_norms, others])
    bounds = angle_bounds(ritz.values, norms, k, moments.total_variance, state.problem.block_columns, moments.n_samples)
    result = PCAResult(
        components=components.cpu(),
        mean=(state.shift + moments.delta).cpu(),
        explained_variance=ritz.values[:k].clamp(min=0).cpu(),
        total_variance=moments.total_variance,
        residuals=relative_residuals(state).cpu(),
        angle_bounds=bounds.radians.cpu(),
        bound_rigorous=bounds.rigorous,
        n_samples=moments.n_samples,
        reads=state.reads,
        converged=converged(state),
        layer_variance=moments.layer_variance.cpu(),
    )
    return result, weights.cpu()


def scored_rows(state: KrylovState, weights: Tensor) -> RowScores:
    """Scores of every row on the directions K @ ``weights`` (n_basis, r), float64, each of unit length."""
    basis = state.basis
    return row_scores(basis.blocks, basis.tables, basis.holds_mean_correction, state.moments, state.shift, weights)


def bad_rows(state: KrylovState) -> np.ndarray:
    """Global numbers of the bad rows of all processes, ascending, int64."""
    moments = state.moments
    return np.concatenate(state.scope.world.all_gather_object(moments.first_row + np.flatnonzero(moments.bad)))


def block_columns(n_components: int, n_columns: int, *, storage_bound: bool = False) -> int:
    """Columns of one block of the basis, l: k, oversampling and the mean columns, rounded up to a multiple of 16.

    Parameters
    ----------
    storage_bound : whether rows arrive slower than they are multiplied, as on a GPU: more columns, fewer reads
    """
    oversampling = OVERSAMPLING_STORAGE_BOUND if storage_bound else OVERSAMPLING
    return rounded_up(min(n_components + oversampling, n_columns) + MEAN_COLUMNS)


def last_block_columns(n_components: int, block_columns: int) -> int:
    """Columns of the block of the last read: k, a few more and the mean columns, rounded up; at most
    ``block_columns``.
    """
    return min(rounded_up(n_components + OVERSAMPLING_LAST + MEAN_COLUMNS), block_columns)


def block_width(state: KrylovState) -> int:
    """Columns of the block of the next read; fewer in the last read, since no later read builds on it."""
    problem = state.problem
    if is_last(state.max_residuals, problem.options.tolerance):
        return last_block_columns(problem.n_components, problem.block_columns)
    return problem.block_columns


def accumulate_bits(state: KrylovState) -> int:
    """Bits of the operands of Z that must count in the next read.

    The first Z must be exact: the mean is computed from it, and its block has large weights in every Ritz vector, so
    that a rough one would leave fewer rows certified. Later blocks are orthogonal to the directions found so far: their
    products are short and their weights small. The Z of the last read serves the residuals alone.
    """
    if state.iteration.least_reads == 1 or not state.basis.products:
        return 24
    tolerance = state.problem.options.tolerance
    last = state.reads + 1 >= state.iteration.most_reads or is_last(state.max_residuals, tolerance)
    return 8 if last else 16


def converged(state: KrylovState) -> bool:
    """Whether every direction is within the tolerance, or as near as float32 products get."""
    return bool(within_tolerance(state).all())


def within_tolerance(state: KrylovState) -> Tensor:
    """Whether each direction is within the tolerance, or as near as float32 products get, of shape (k,), bool."""
    assert state.ritz is not None and state.residual_norms is not None
    k = state.problem.n_components
    values, norms = state.ritz.values, state.residual_norms
    return norms <= torch.maximum(state.problem.options.tolerance * values[:k], residual_floor(values)[:k])


def relative_residuals(state: KrylovState) -> Tensor:
    """||C v - lambda v|| / lambda of each direction, of shape (k,), float64, after at least one complete read.

    Where lambda is zero to working precision, so is the residual, and their ratio is defined as 0.
    """
    assert state.ritz is not None and state.residual_norms is not None
    k = state.problem.n_components
    values, norms = state.ritz.values[:k], state.residual_norms
    vanishes = values <= ZERO * state.ritz.values[0]
    return torch.where(vanishes, 0.0, norms / values.clamp(min=1e-300))


def is_last(max_residuals: Sequence[float], tolerance: float) -> bool:
    """Whether the next read is predicted to be the last: half the gain of the read before suffices.

    Parameters
    ----------
    max_residuals : the largest relative residual after each read so far
    """
    if len(max_residuals) < 2:
        return False
    gain = max_residuals[-1] / max(max_residuals[-2], 1e-300)
    return 2 * gain * max_residuals[-1] < tolerance


def is_rounding_limited(state: KrylovState) -> bool:
    """Whether the residual of a direction above the tolerance may be the rounding of the first products alone."""
    assert state.ritz is not None and state.residual_norms is not None
    norms = state.residual_norms
    unconverged = ~within_tolerance(state)
    limit = ROUNDING_MARGIN * residual_rounding(state.basis.products, state.ritz, len(norms))
    return len(state.basis.blocks) > 1 and bool((norms <= limit)[unconverged].any())


def residual_floor(values: Tensor) -> Tensor:
    """The smallest absolute residual that float32 products can reach, of shape (r,), for eigenvalues ``values`` (r,).

    The rounding of a projection on any direction is relative to the length of the rows, which direction 0 dominates.
    """
    largest = values[0].clamp(min=0)
    return ROUNDING_MARGIN * EPSILON * (largest * values.clamp(min=0)).sqrt() + ZERO * largest


def residual_rounding(products: Sequence[Tensor], ritz: RitzPairs, n_components: int) -> Tensor:
    """Estimate of the absolute rounding in the residuals of the leading Ritz pairs, of shape (k,).

    The rounding of each product C omega is relative to its own length, and enters a residual by the product's weight in
    the Ritz vector.
    """
    lengths = torch.cat([torch.linalg.vector_norm(product, dim=0) for product in products]).double()
    return EPSILON * torch.linalg.vector_norm(lengths[:, None] * ritz.weights[:, :n_components], dim=0)


def _next_directions(state: KrylovState) -> Tensor:
    """Directions of the next block, of shape (d, b), float64, before the span of the basis is projected out.

    They are the products of the last block. For a narrow block, or after one, they are the residuals of the leading
    Ritz pairs: both span the same space where all pairs are taken, and the error of a Ritz vector lies along its own
    residual to first order.
    """
    assert state.ritz is not None
    width = block_width(state)
    if all(block.shape[1] == width for block in state.basis.blocks):
        return state.basis.products[-1]
    return combine(state.basis.products, state.ritz.weights[:, : width - MEAN_COLUMNS])


def _restarted(state: KrylovState) -> KrylovState:
    """The state with an empty basis and the Ritz vectors as its next block.

    Where the leading eigenvalues are much larger than the others, the rounding of the first products exceeds the
    residuals of the others. A basis of Ritz vectors keeps the two apart.
    """
    assert state.ritz is not None
    width = state.problem.block_columns - MEAN_COLUMNS
    vectors = combine(state.basis.blocks, state.ritz.weights[:, :width])
    for table in state.basis.tables:
        table.close()
    return replace(
        state,
        next_block=vectors / torch.linalg.vector_norm(vectors, dim=0),
        basis=Basis.empty(state.problem, state.scope),
        max_residuals=(),
    )


def _rounded(state: KrylovState, block: Tensor) -> Tensor:
    """``block`` in float32, in numbers that the dtype of the product holds."""
    if not state.iteration.rounds_basis:
        return block.float()
    problem = state.problem
    return kernels.round_directions(block.float(), problem.dtype, problem.device, state.scope.scale)


def _sums(problem: Problem, width: int, dtype: torch.dtype) -> Tensor:
    """Zeros of shape (d, width), in the memory layout in which the product is fastest."""
    d = problem.n_columns
    if problem.device.type == "cpu":
        return torch.zeros((width, d), dtype=dtype).T
    return torch.zeros((d, width), dtype=dtype, device=problem.device)


def _table_name(reads_before: int) -> str:
    """The name of the file of a read's projections; reads before a restart count."""
    return f"projections-{reads_before + 1}"


def _write_rows(table: Projections, start: int, rows: Tensor) -> None:
    table.write(start, rows.numpy())
