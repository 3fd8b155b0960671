"""Block Krylov principal components: one read of the store a step, usually two or three in all.

Musco & Musco 2015, algorithm 2, warm-started (Wang et al., arXiv 1508.06429), with Rayleigh-Ritz on the kept
projections.
A product of the covariance with a thin block costs one read: S = (X - m) Omega, Z += (X - m)ᵀ S. The basis is
whatever the
kernel multiplied, rounding included, so half-precision products lose nothing: the problem is solved as the
generalised one.

``init -> (begin_read -> update for each panel -> end_read) until done -> finalize``. ``update`` adds into the
accumulators of the state that it is given; every other step returns a new state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import skillaxes_kernels as kernels
from skillaxes.cluster.world import ALONE, World
from skillaxes.pca.bounds import angle_bounds
from skillaxes.pca.grams import GroupedGrams
from skillaxes.pca.moments import RowMoments
from skillaxes.pca.orthonormal import gram, orthonormalize
from skillaxes.pca.problem import PCAResult, Problem, signs
from skillaxes.pca.projections import Projections, ProjectionStore
from skillaxes.pca.rayleigh_ritz import RitzPairs, combine, rayleigh_ritz, residual_norms, whiten
from skillaxes.pca.warm_start import WarmStart
from skillaxes.stream.panels import Panel

UTILITY = 2  # columns of a block that carry the mean (first read) or its correction (second), as high and low part
FLUSH = 16  # panels whose products are summed in float32 before they join the float64 sum
_THETA_FLOOR = 1e-6  # of the largest eigenvalue: below it float32 data have no direction to converge to


@dataclass(frozen=True)
class KrylovState:
    """Between two panels. d columns, l columns a block, p reads begun.

    Attributes
    ----------
    problem, world, store : what the solver works on
    moments : counts, norms and bad rows, complete after the first read
    shift : Tensor of shape (d,), float64: the provisional mean m
    blocks : p tensors of shape (d, l), float32: the bases as multiplied, utility columns zeroed
    products : p tensors of shape (d, l), float32: C Omega of each complete read
    tables : p tables of kept projections
    basis_gram : KᵀK of shape (p l, p l), float64
    grams : SᵀS of the kept projections, by group of rows
    ritz, residual_norms : the last solution; None before the first read is complete
    done : no further read is needed
    worst : the largest relative residual after each read
    """

    problem: Problem
    world: World
    store: ProjectionStore
    moments: RowMoments
    shift: Tensor
    next_block: Tensor
    blocks: tuple[Tensor, ...]
    products: tuple[Tensor, ...]
    tables: tuple[Projections, ...]
    basis_gram: Tensor
    grams: GroupedGrams
    ritz: RitzPairs | None = None
    residual_norms: Tensor | None = None
    done: bool = False
    # of the read under way; cheap: half-precision operands will do for Z
    directions: Tensor | None = None
    partial: Tensor | None = None
    total: Tensor | None = None
    pending: int = 0
    cheap: bool = False
    worst: tuple[float, ...] = ()
    scale: Tensor | None = None
    scratch: kernels.Scratch | None = None

    @property
    def reads(self) -> int:
        """Complete reads."""
        return len(self.products)


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
        next_block=start.block,
        blocks=(),
        products=(),
        tables=(),
        basis_gram=torch.empty((0, 0), dtype=torch.float64, device=device),
        grams=GroupedGrams(problem.seed, store.first_row, store.n_rows),
        scale=scale,
        scratch=kernels.make_scratch(device, problem.panel_rows, problem.n_columns, problem.panel_dtype),
    )


def begin_read(state: KrylovState) -> KrylovState:
    """Round the next block to the dtype of the product and take the rounded block as the basis."""
    problem = state.problem
    width = problem.block_size
    carried = state.shift if state.reads == 0 else state.moments.delta
    block = torch.zeros((problem.n_columns, width), dtype=torch.float64, device=problem.device)
    block[:, : state.next_block.shape[1]] = state.next_block
    directions = _round(state, block)
    if carried is not None:
        high = _round(state, _one_column(carried, width))[:, -UTILITY].double()
        low = carried - high
        pair = torch.zeros_like(block)
        pair[:, -UTILITY], pair[:, -UTILITY + 1] = high, low
        directions[:, -UTILITY:] = _round(state, pair)[:, -UTILITY:]
    basis = directions.clone()
    basis[:, -UTILITY:] = 0
    state.world.broadcast_(directions)
    return replace(
        state,
        directions=directions,
        blocks=(*state.blocks, basis),
        tables=(*state.tables, state.store.new(width - 1)),  # l - 2 projections and the carried one
        partial=torch.zeros((problem.n_columns, width), device=problem.device),
        total=torch.zeros((problem.n_columns, width), dtype=torch.float64, device=problem.device),
        pending=0,
        cheap=_cheap(state),
    )


def update(state: KrylovState, panel: Panel) -> KrylovState:
    """Add one panel to the read under way."""
    assert state.directions is not None and state.partial is not None and state.total is not None
    shift = state.shift if panel.rows.dtype == torch.float64 else state.shift.float()
    projection = kernels.project(panel.rows, state.directions, shift, scale=state.scale, scratch=state.scratch)
    count = panel.count
    carried = projection.dots[:count, -UTILITY] + projection.dots[:count, -UTILITY + 1]
    if state.reads == 0:
        state.moments.add(panel, projection, carried, state.shift, state.scale)
    good = state.moments.good(panel.start, count, projection.dots.device)
    weights = projection.dots
    kept = torch.cat([weights[:count, :-UTILITY], carried[:, None]], dim=1)
    kept[~good] = 0
    state.tables[-1].write(panel.start, kept.cpu().numpy())
    weights[:, -UTILITY] = 1  # the sums of the columns come along as one more column of Z
    weights[:, -UTILITY + 1] = 0
    weights[count:] = 0
    weights[:count][~good] = 0
    kernels.accumulate(state.partial, projection, weights, cheap=state.cheap)
    if state.pending + 1 < FLUSH:
        return replace(state, pending=state.pending + 1)
    state.total.add_(state.partial)
    state.partial.zero_()
    return replace(state, pending=0)


def end_read(state: KrylovState) -> KrylovState:
    """Solve the Rayleigh-Ritz problem on all blocks, measure the residuals, choose the next block or stop."""
    state, total = close_read(state)
    problem = state.problem
    new = state.blocks[-1]
    cross = torch.cat([gram(block, new) for block in state.blocks], dim=0)  # (p l, l)
    before = cross.shape[0] - cross.shape[1]
    above = torch.cat([state.basis_gram, cross[:before]], dim=1)
    basis_gram = torch.cat([above, torch.cat([cross[:before].T, cross[before:]], dim=1)])
    grams = state.grams.extend(state.tables, problem.block_size, state.world)
    whitening = whiten(basis_gram)
    ritz = rayleigh_ritz(grams.covariance(state.moments.n_samples).to(whitening.device), whitening)
    norms = residual_norms(state.blocks, state.products, ritz, problem.n_components)
    state = replace(state, basis_gram=basis_gram, grams=grams, ritz=ritz, residual_norms=norms)
    state = replace(state, worst=(*state.worst, float(relative_residuals(state).max())))
    enough = state.reads >= problem.min_reads
    if enough and (converged(state) or state.reads >= problem.max_reads):
        return replace(state, done=True)
    block = orthonormalize(total, state.blocks)
    block = block[:, : problem.block_size - UTILITY]
    return replace(state, next_block=block, done=block.shape[1] == 0 and enough)


def close_read(state: KrylovState) -> tuple[KrylovState, Tensor]:
    """Complete the sums of the read under way.

    Returns
    -------
    state : with the moments and the product C Omega of this read
    product : Tensor of shape (d, l), float64, the same C Omega before it is rounded
    """
    assert state.partial is not None and state.total is not None
    total = state.total
    total.add_(state.partial)
    state.world.sum_(total)
    moments = state.moments
    if state.reads == 0:
        moments = moments.complete(total[:, -UTILITY].clone(), state.world)
    assert moments.delta is not None
    total[:, -UTILITY:] = 0
    total -= moments.n_samples * torch.outer(moments.delta, state.blocks[-1].double().T @ moments.delta)
    total /= moments.degrees
    products = (*state.products, total.float())
    return replace(state, moments=moments, products=products, partial=None, total=None, directions=None), total


def _cheap(state: KrylovState) -> bool:
    """Whether Z of the coming read may be rough.

    The Z of a read that is going to be the last serves the residuals alone, in which its block has small weights. A
    read is
    taken for the last if it need gain only a fifth of what the read before gained. The first Z must be exact: its
    weights in the residuals are large, and a rough one would blur what is settled.
    """
    if state.problem.min_reads == 1 or state.reads == 0:
        return False
    if state.reads + 1 >= state.problem.max_reads:
        return True
    if len(state.worst) < 2:
        return False
    gain = state.worst[-1] / max(state.worst[-2], 1e-300)
    return 5 * gain * state.worst[-1] < state.problem.tolerance


def converged(state: KrylovState) -> bool:
    """Whether every wanted direction is within the tolerance."""
    return bool((relative_residuals(state) <= state.problem.tolerance).all())


def relative_residuals(state: KrylovState) -> Tensor:
    """||C v - lambda v|| / lambda of the wanted directions, of shape (k,), after at least one complete read."""
    assert state.ritz is not None and state.residual_norms is not None
    values = state.ritz.values
    k = min(state.problem.n_components, len(values))
    floor = _THETA_FLOOR * float(values[0].clamp(min=0))
    return state.residual_norms[:k] / values[:k].clamp(min=max(floor, 1e-300))


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
    bounds = angle_bounds(ritz.values, state.residual_norms, k, moments.total_variance, state.problem.block_size)
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


def _one_column(values: Tensor, width: int) -> Tensor:
    block = torch.zeros((len(values), width), dtype=torch.float64, device=values.device)
    block[:, -UTILITY] = values
    return block
