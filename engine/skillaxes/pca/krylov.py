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

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import skillaxes_kernels as kernels
from skillaxes.cluster.world import ALONE, World
from skillaxes.pca.bounds import angle_bounds
from skillaxes.pca.grams import GroupedGrams
from skillaxes.pca.krylov_state import (
    UTILITY,
    KrylovState,
    bits_of_products,
    block_size,
    converged,
    is_blurred,
    relative_residuals,
)
from skillaxes.pca.moments import RowMoments
from skillaxes.pca.orthonormal import gram, orthonormalize, overlaps, pseudo_inverse
from skillaxes.pca.problem import PCAResult, Problem, signs
from skillaxes.pca.projections import Projections, ProjectionStore
from skillaxes.pca.rayleigh_ritz import combine, rayleigh_ritz, residual_norms, whiten
from skillaxes.pca.warm_start import WarmStart
from skillaxes.stream import device as devices
from skillaxes.stream.device_outbox import Outbox
from skillaxes.stream.panels import Panel

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
        widths=(*(block.shape[1] for block in state.blocks), width),
        bits=state.world.share(bits_of_products(state)),
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
    state = replace(state, worst=(*state.worst, state.world.share(float(relative_residuals(state).max()))))
    done = state.reads >= problem.min_reads and (converged(state) or state.reads >= problem.max_reads)
    if state.world.share(done):
        return replace(state, done=True)
    block = orthonormalize(_leading_on(state), state.blocks, pseudo_inverse(basis_gram))
    block = block[:, : block_size(state) - UTILITY]
    if state.world.share(block.shape[1] == 0 or is_blurred(state)):
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
    state.world.sum_(total)
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
    rows_columns = {"rows": n_rows, "columns": state.widths[-1]}
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
