"""Which solver serves a store, and why: a rule that can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import skillaxes_kernels as kernels
from skillaxes.cluster.world import ALONE, World
from skillaxes.pca.base import PCAResult, Problem, rounded_up, signs
from skillaxes.pca.orthonormal import gram, orthonormalize, overlaps, pseudo_inverse
from skillaxes.pca.projections import Projections, ProjectionStore
from skillaxes.pca.rayleigh_ritz import RitzPairs, angle_bounds, combine, rayleigh_ritz, residual_norms, whiten
from skillaxes.pca.row_moments import RowMoments
from skillaxes.pca.stability import GroupedGrams
from skillaxes.pca.warm_start import WarmStart
from skillaxes.stream import device as devices
from skillaxes.stream.device import Outbox
from skillaxes.stream.panel import Panel

# Columns of a block beyond k, before rounding up. A CPU is bound by its products: 2 reads with 48 columns (k = 10) and
# one with 16 cost it 112 columns of products, 2 reads with 96 cost 192 and leave residuals ten times larger. A GPU
# multiplies 96 columns while it waits for the next rows, so what counts there are reads: 96 columns are within the
# default tolerance after two reads of real activations (residual 3e-4), 48 after three (5e-5).
OVERSAMPLING = 32
OVERSAMPLING_STORAGE_BOUND = 80
OVERSAMPLING_LAST = 4  # of the read that is foreseen to be the last


def block_columns(n_components: int, n_columns: int, utility: int, *, storage_bound: bool = False) -> int:
    """Columns of one block of the Krylov basis, l: k, oversampling and the utility columns, rounded up to a multiple of
    16.

    Parameters
    ----------
    storage_bound : rows arrive slower than they are multiplied, as on a GPU: more columns, fewer reads
    """
    oversampling = OVERSAMPLING_STORAGE_BOUND if storage_bound else OVERSAMPLING
    return rounded_up(min(n_components + oversampling, n_columns) + utility)


def last_block_size(n_components: int, block_columns: int, utility: int) -> int:
    """Columns of the block of the last read, at most ``block_columns``: k, a few more and the utility columns, rounded
    up.
    """
    return min(rounded_up(n_components + OVERSAMPLING_LAST + utility), block_columns)


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


UTILITY = 2  # columns of a block that carry the mean (first read) or its correction (second), as high and low part


@dataclass(frozen=True)
class KrylovState:
    """Between two panels. d columns, l columns a block, p reads begun.

    Attributes
    ----------
    problem, world, store : what the solver works on
    moments : counts, norms and bad rows, complete after the first read
    shift, shift_square : Tensors of shapes (d,) and (), float64: the provisional mean m and |m|²
    subtrahend : the same in the dtype that the kernels take; always the same tensor, for which they prepare once
    next_block : Tensor of shape (d, b), float64: the block of the next read
    blocks : p tensors of shape (d, l), float32: the bases as multiplied, utility columns zeroed
    products : p tensors of shape (d, l), float64: C Omega of each complete read
    tables : p tables of kept projections
    carries_delta : whether the last column of each table holds (x - m)·delta; (x - m)·m if not
    basis_gram : KᵀK of shape (p l, p l), float64
    grams : SᵀS of the kept projections, by group of rows
    outbox : what the panels send back to the host
    reads : complete reads, those before a restart included
    ritz, residual_norms : the last solution, and ||C v - theta v|| of its first k pairs, float64; None before the first
        read is complete
    done : no further read is needed
    worst : the largest relative residual after each read
    """

    problem: Problem
    world: World
    store: ProjectionStore
    moments: RowMoments
    shift: Tensor
    shift_square: Tensor
    subtrahend: Tensor
    next_block: Tensor
    blocks: tuple[Tensor, ...]
    products: tuple[Tensor, ...]
    tables: tuple[Projections, ...]
    basis_gram: Tensor
    grams: GroupedGrams
    outbox: Outbox
    reads: int = 0
    carries_delta: tuple[bool, ...] = ()
    ritz: RitzPairs | None = None
    residual_norms: Tensor | None = None
    done: bool = False
    # of the read under way; width: columns of its block; bits: of the operands of Z
    directions: Tensor | None = None
    partial: Tensor | None = None
    total: Tensor | None = None
    pending: int = 0
    width: int = 0
    bits: int = 24
    worst: tuple[float, ...] = ()
    scale: Tensor | None = None
    scratch: kernels.Scratch | None = None


def bits_of_products(state: KrylovState) -> int:
    """How many bits of the operands of Z have to count in the coming read.

    The first Z must be exact: the mean comes with it, its block has large weights in every Ritz vector, and a rough
    one would blur what is settled. Later blocks are orthogonal to what was found: their products are short and their
    weights small. The Z of the last read serves the residuals alone.
    """
    if state.problem.min_reads == 1 or not state.products:
        return 24
    last = state.reads + 1 >= state.problem.max_reads or is_last(state.worst, state.problem.tolerance)
    return 8 if last else 16


def block_size(state: KrylovState) -> int:
    """Columns of the block of the coming read: fewer where it will be the last, since no later one builds on it."""
    problem = state.problem
    if is_last(state.worst, problem.tolerance):
        return last_block_size(problem.n_components, problem.block_size, UTILITY)
    return problem.block_size


def within_tolerance(state: KrylovState) -> Tensor:
    """Which wanted directions are within the tolerance, or as near as float32 products get, of shape (k,), bool."""
    assert state.ritz is not None and state.residual_norms is not None
    k = state.problem.n_components
    values, norms = state.ritz.values, state.residual_norms
    return norms <= torch.maximum(state.problem.tolerance * values[:k], precision(values)[:k])


def is_blurred(state: KrylovState) -> bool:
    assert state.ritz is not None and state.residual_norms is not None
    norms = state.residual_norms
    late = ~within_tolerance(state)
    return len(state.blocks) > 1 and bool((norms <= BLURRED * blur(state.products, state.ritz, len(norms)))[late].any())


def converged(state: KrylovState) -> bool:
    """Whether every wanted direction is within the tolerance, or as near as float32 products get."""
    return bool(within_tolerance(state).all())


def relative_residuals(state: KrylovState) -> Tensor:
    """||C v - lambda v|| / lambda of the wanted directions, of shape (k,), after at least one complete read.

    Where lambda is zero to working precision, so is the residual: its ratio is given as 0.
    """
    assert state.ritz is not None and state.residual_norms is not None
    k = state.problem.n_components
    values, norms = state.ritz.values[:k], state.residual_norms
    nothing = values <= ZERO * state.ritz.values[0]
    return torch.where(nothing, 0.0, norms / values.clamp(min=1e-300))


FLUSH = 16  # panels whose products are summed in float32 before they join the float64 sum


def init(
    problem: Problem, start: WarmStart, store: ProjectionStore, *, scale: Tensor | None = None, world: World = ALONE
) -> KrylovState:
    """The state before the first read."""
    device = problem.device
    return KrylovState(
        problem=problem,
        world=world,
        store=store,
        moments=RowMoments.empty(problem, store.first_row, store.n_rows),
        shift=start.shift.to(device),
        shift_square=start.shift.to(device).square().sum(),  # once: two threads sum, and a panel waits for both
        subtrahend=start.shift.to(device, torch.float64 if problem.panel_dtype == torch.float64 else torch.float32),
        next_block=start.block,
        blocks=(),
        products=(),
        tables=(),
        basis_gram=torch.empty((0, 0), dtype=torch.float64, device=device),
        grams=GroupedGrams(problem.seed, store.first_row, store.n_rows),
        outbox=Outbox(devices.open_seam(device)),
        scale=scale,
        scratch=kernels.make_scratch(device, problem.panel_rows, problem.n_columns, problem.panel_dtype),
    )


def begin_read(state: KrylovState) -> KrylovState:
    """Round the next block to the dtype of the product and take the rounded block as the basis."""
    problem = state.problem
    width = block_size(state)
    carried = state.shift if state.moments.delta is None else state.moments.delta
    columns = torch.zeros((width, problem.n_columns), dtype=torch.float32, device=problem.device)
    columns[: state.next_block.shape[1]] = _round(state, state.next_block).T
    high = _round(state, carried[:, None])
    columns[-UTILITY:] = torch.cat([high, _round(state, carried[:, None] - high.double())], dim=1).T
    directions = columns.T.contiguous()
    state.world.broadcast_(directions)  # first: where processors differ, so do their last digits
    basis = directions.clone()
    basis[:, -UTILITY:] = 0
    return replace(
        state,
        directions=directions,
        blocks=(*state.blocks, basis),
        tables=(*state.tables, state.store.new(width - 1)),  # l - 2 projections and the carried one
        carries_delta=(*state.carries_delta, state.moments.delta is not None),
        partial=_sums(problem, width, torch.float32),
        total=_sums(problem, width, torch.float64),
        pending=0,
        width=width,
        bits=state.world.broadcast_object(bits_of_products(state)),
    )


def update(state: KrylovState, panel: Panel) -> KrylovState:
    """Add one panel to the read under way."""
    assert state.directions is not None and state.partial is not None and state.total is not None
    count, first = panel.count, state.moments.delta is None
    projection = kernels.project(
        panel.pieces,
        state.directions,
        state.subtrahend,
        scale=state.scale,
        scratch=state.scratch,
        bad=None if first or state.outbox.deferred else state.moments.known_bad(panel),
    )
    carried = projection.dots[:count, -UTILITY] + projection.dots[:count, -UTILITY + 1]
    if first:
        state.moments.add(panel, projection, carried, state.shift_square, state.scale, state.outbox)
    weights = projection.dots
    weights[:count, -UTILITY] = carried
    weights[count:] = 0
    bad = projection.bad[:, None]
    if state.outbox.deferred or bool(bad.any()):  # as few passes as may be that torch hands to all threads
        weights.masked_fill_(bad, 0)
    state.outbox.send(partial(_keep, state.tables[-1], panel.start), weights[:count, : -UTILITY + 1])
    weights[:count, -UTILITY] = ~projection.bad[:count]  # the sums of the columns come along as one more column of Z
    weights[:, -UTILITY + 1] = 0
    kernels.accumulate(state.partial, projection, weights, bits=state.bits)
    if state.pending + 1 < FLUSH:
        return replace(state, pending=state.pending + 1)
    state.total.add_(state.partial.double())  # adding two dtypes at once takes torch three times as long
    state.partial.zero_()
    return replace(state, pending=0)


def _keep(table: Projections, start: int, rows: Tensor) -> None:
    table.write(start, rows.numpy())


def end_read(state: KrylovState) -> KrylovState:
    """Solve the Rayleigh-Ritz problem on all blocks, measure the residuals, choose the next block or stop."""
    state = close_read(state)
    problem = state.problem
    new = state.blocks[-1]
    cross = overlaps(state.blocks, new)  # (p l, l)
    before = cross.shape[0] - cross.shape[1]
    above = torch.cat([state.basis_gram, cross[:before]], dim=1)
    basis_gram = torch.cat([above, torch.cat([cross[:before].T, cross[before:]], dim=1)])
    grams = state.grams.extend(state.tables, [block.shape[1] for block in state.blocks], state.world)
    whitening = whiten(basis_gram)
    ritz = rayleigh_ritz(grams.covariance(state.moments.n_samples).to(whitening.device), whitening)
    k = problem.n_components
    norms = residual_norms(state.blocks, state.products, ritz.values[:k], ritz.weights[:, :k])
    state = replace(state, basis_gram=basis_gram, grams=grams, ritz=ritz, residual_norms=norms)
    # Shared: the width of the next block follows from it, and where processors differ, so do their last digits.
    state = replace(state, worst=(*state.worst, state.world.broadcast_object(float(relative_residuals(state).max()))))
    done = state.reads >= problem.min_reads and (converged(state) or state.reads >= problem.max_reads)
    if state.world.broadcast_object(done):
        return replace(state, done=True)
    block = orthonormalize(_leading_on(state), state.blocks, pseudo_inverse(basis_gram))
    block = block[:, : block_size(state) - UTILITY]
    if state.world.broadcast_object(block.shape[1] == 0 or is_blurred(state)):
        return _restarted(state)
    return replace(state, next_block=block)


def _leading_on(state: KrylovState) -> Tensor:
    """What the next block is made of, of shape (d, b), float64, the span of the basis aside: the products of the last
    block; for a narrow block, or after one, the residuals of the leading Ritz pairs.

    Both span the same where all pairs are taken. What a Ritz vector lacks lies along its own residual first.
    """
    assert state.ritz is not None
    width = block_size(state)
    if all(block.shape[1] == width for block in state.blocks):
        return state.products[-1]
    return combine(state.products, state.ritz.weights[:, : width - UTILITY])


def _restarted(state: KrylovState) -> KrylovState:
    """Begin anew with the Ritz vectors themselves as the basis.

    Where the leading eigenvalues are very large against the wanted ones, the rounding of the first products hides the
    residuals of the others; a basis of Ritz vectors keeps the two apart.
    """
    assert state.ritz is not None
    width = state.problem.block_size - UTILITY
    vectors = combine(state.blocks, state.ritz.weights[:, :width])
    for table in state.tables:
        table.close()
    return replace(
        state,
        next_block=vectors / torch.linalg.vector_norm(vectors, dim=0),
        blocks=(),
        products=(),
        tables=(),
        carries_delta=(),
        basis_gram=state.basis_gram[:0, :0],
        grams=GroupedGrams(state.problem.seed, state.store.first_row, state.store.n_rows),
        worst=(),
    )


def close_read(state: KrylovState) -> KrylovState:
    """Complete the sums of the read under way: the moments after the first one, and the product C Omega of this one."""
    assert state.partial is not None and state.total is not None
    state.outbox.drain()
    total = state.total
    total.add_(state.partial.double())
    state.world.all_reduce_(total)
    moments = state.moments
    if moments.delta is None:
        moments = moments.complete(total[:, -UTILITY].clone(), state.world)
    assert moments.delta is not None
    total[:, -UTILITY:] = 0
    means = gram(moments.delta[:, None], state.blocks[-1])[0]  # of the kept projections
    total.addr_(moments.delta, means, alpha=-moments.n_samples).div_(moments.degrees)
    return replace(
        state,
        moments=moments,
        products=(*state.products, total),
        reads=state.reads + 1,
        partial=None,
        total=None,
        directions=None,
    )


def products_of_read(state: KrylovState, n_rows: int) -> list[dict[str, Any]]:
    """The matrix products that the last read made of ``n_rows`` rows, for the record: kind, dtype of the operands as
    the unit takes them, rows and columns.
    """
    project = str(state.problem.panel_dtype if state.outbox.deferred else torch.float32).removeprefix("torch.")
    accumulate = "bfloat16" if state.bits == 8 and not state.outbox.deferred else project
    rows_columns = {"rows": n_rows, "columns": state.width}
    return [
        {"kind": "project", "dtype": "float32" if project == "float64" else project, **rows_columns},
        {"kind": "accumulate", "dtype": "float32" if accumulate == "float64" else accumulate, **rows_columns},
    ]


def finalize(state: KrylovState) -> tuple[PCAResult, Tensor]:
    """The directions, and how the kept projections combine to them.

    Returns
    -------
    result : the directions and their bounds
    weights : Tensor of shape (n_basis, r), float64, on the CPU: K @ weights is orthonormal and begins with the
        components
    """
    ritz, moments, k = state.ritz, state.moments, state.problem.n_components
    assert ritz is not None and state.residual_norms is not None and moments.delta is not None
    weights = ritz.weights
    components = combine(state.blocks, weights[:, :k])
    lengths = torch.linalg.vector_norm(components, dim=0)
    factor = signs((components / lengths).T.float()).double() / lengths
    components = (components * factor).T
    weights = torch.cat([weights[:, :k] * factor, weights[:, k:]], dim=1)
    # of the other pairs, roughly: they only bound how the first ones can turn among them
    others = residual_norms(state.blocks, state.products, ritz.values[k:], ritz.weights[:, k:].float())
    norms = torch.cat([state.residual_norms, others])
    bounds = angle_bounds(ritz.values, norms, k, moments.total_variance, state.problem.block_size, moments.n_samples)
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


def _round(state: KrylovState, block: Tensor) -> Tensor:
    problem = state.problem
    if problem.exact_block:
        return block.float()
    return kernels.round_directions(block.float(), problem.panel_dtype, problem.device, state.scale)


def _sums(problem: Problem, width: int, dtype: torch.dtype) -> Tensor:
    """Zeros of shape (d, width), in the layout in which the product is fastest."""
    d = problem.n_columns
    if problem.device.type == "cpu":
        return torch.zeros((width, d), dtype=dtype).T
    return torch.zeros((d, width), dtype=dtype, device=problem.device)
