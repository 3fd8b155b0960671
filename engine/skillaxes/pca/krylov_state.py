"""What the block Krylov iteration holds between two panels, and when it may stop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import skillaxes_kernels as kernels
from skillaxes.cluster.world import World
from skillaxes.pca import rule
from skillaxes.pca.convergence import BLURRED, ZERO, blur, is_last, precision
from skillaxes.pca.grams import GroupedGrams
from skillaxes.pca.moments import RowMoments
from skillaxes.pca.problem import Problem
from skillaxes.pca.projections import Projections, ProjectionStore
from skillaxes.pca.rayleigh_ritz import RitzPairs
from skillaxes.stream.device_outbox import Outbox

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
    # of the read under way; widths: columns of each block of its basis, its own the last; bits: of the operands of Z
    directions: Tensor | None = None
    partial: Tensor | None = None
    total: Tensor | None = None
    pending: int = 0
    widths: tuple[int, ...] = ()
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
        return rule.last_block_size(problem.n_components, problem.block_size, UTILITY)
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
