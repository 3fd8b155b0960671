"""States of the solvers as plain values, which a checkpoint holds, and back.

What follows from them is bit for bit what would have followed without: tensors keep their numbers and their strides,
since a matrix product may sum in another order where the strides differ.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillaxes.pca.covariance import CovarianceState
from skillaxes.pca.incremental import IncrementalState
from skillaxes.pca.krylov import KrylovState
from skillaxes.pca.projections import Projections
from skillaxes.pca.rayleigh_ritz import RitzPairs
from skillaxes.pca.row_moments import RowMoments
from skillaxes.pca.stability import GroupedGrams
from skillaxes.pca.warm_start import WarmStart

KRYLOV_ROWS = "rows-krylov"


class MomentRows:
    """Norm, squared distance from the provisional mean, and whether a row is bad: three float32 numbers a row."""

    width = 3

    def __init__(self, moments: RowMoments) -> None:
        self._moments = moments
        self.first_row, self.n_rows = moments.first_row, len(moments.norm)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Of rows ``start`` to ``stop`` (global), of shape (stop - start, 3)."""
        place = slice(start - self.first_row, stop - self.first_row)
        columns = (self._moments.norm[place], self._moments.shifted_square[place], self._moments.bad[place])
        return np.stack(columns, axis=1, dtype=np.float32)

    def write(self, start: int, rows: np.ndarray) -> None:
        """Put ``rows`` of shape (n, 3) at global row ``start``."""
        place = slice(start - self.first_row, start - self.first_row + len(rows))
        self._moments.norm[place], self._moments.shifted_square[place] = rows[:, 0], rows[:, 1]
        self._moments.bad[place] = rows[:, 2] != 0


def start_saved(start: WarmStart) -> dict[str, Any]:
    """Where a solver begins."""
    return {"shift": own(start.shift), "block": own(start.block), "n_rows": start.n_rows}


def start_loaded(saved: dict[str, Any], device: torch.device) -> WarmStart:
    """The same, on ``device``."""
    return WarmStart(saved["shift"], saved["block"].to(device), saved["n_rows"])


def table_names(state: KrylovState) -> list[str]:
    """Row files of the projections that ``state`` keeps: numbered by read, those before a restart included."""
    first = state.reads - len(state.products)
    return [f"projections-{first + number + 1}" for number in range(len(state.tables))]


def krylov_tables(state: KrylovState) -> dict[str, Projections | MomentRows]:
    """The numbers of every row that ``state`` keeps, by the name of their row file."""
    tables: dict[str, Projections | MomentRows] = dict(zip(table_names(state), state.tables, strict=True))
    if state.moments.delta is not None:
        tables[KRYLOV_ROWS] = MomentRows(state.moments)
    return tables


def read_tables(state: KrylovState) -> dict[str, Projections | MomentRows]:
    """Those that the read under way fills."""
    tables: dict[str, Projections | MomentRows] = {table_names(state)[-1]: state.tables[-1]}
    if state.moments.delta is None:
        tables[KRYLOV_ROWS] = MomentRows(state.moments)
    return tables


def krylov_saved(state: KrylovState) -> dict[str, Any]:
    """``state`` between two reads, but for the numbers of every row."""
    moments, ritz = state.moments, state.ritz
    return {
        "shift": own(state.shift),
        "next_block": own(state.next_block),
        "blocks": [own(block) for block in state.blocks],
        "products": [own(product) for product in state.products],
        "widths": [table.width for table in state.tables],
        "carries_delta": list(state.carries_delta),
        "basis_gram": own(state.basis_gram),
        "gram_products": own(state.grams.products),
        "gram_sums": own(state.grams.sums),
        "reads": state.reads,
        "ritz": None if ritz is None else [own(ritz.values), own(ritz.weights)],
        "residual_norms": None if state.residual_norms is None else own(state.residual_norms),
        "done": state.done,
        "worst": list(state.worst),
        "n_samples": moments.n_samples,
        "delta": None if moments.delta is None else own(moments.delta),
        "total_variance": moments.total_variance,
        "layer_variance": own(moments.layer_variance),
    }


def krylov_loaded(saved: dict[str, Any], fresh: KrylovState) -> KrylovState:
    """The state that was saved, with empty tables in place of its kept projections.

    Parameters
    ----------
    fresh : the state before the first read, begun at the same provisional mean
    """
    device = fresh.problem.device
    grams = GroupedGrams(fresh.grams.seed, fresh.grams.first_row, fresh.grams.n_rows)
    grams.products, grams.sums = saved["gram_products"], saved["gram_sums"]
    moments = replace(
        fresh.moments,
        n_samples=saved["n_samples"],
        delta=None if saved["delta"] is None else saved["delta"].to(device),
        total_variance=saved["total_variance"],
        layer_variance=saved["layer_variance"].to(device),
    )
    ritz = saved["ritz"]
    return replace(
        fresh,
        moments=moments,
        next_block=saved["next_block"].to(device),
        blocks=tuple(block.to(device) for block in saved["blocks"]),
        products=tuple(product.to(device) for product in saved["products"]),
        tables=tuple(fresh.store.new(width) for width in saved["widths"]),
        carries_delta=tuple(saved["carries_delta"]),
        basis_gram=saved["basis_gram"].to(device),
        grams=grams,
        reads=saved["reads"],
        ritz=None if ritz is None else RitzPairs(ritz[0].to(device), ritz[1].to(device)),
        residual_norms=None if saved["residual_norms"] is None else saved["residual_norms"].to(device),
        done=saved["done"],
        worst=tuple(saved["worst"]),
    )


def krylov_sums(state: KrylovState) -> dict[str, Any]:
    """The sums of the read under way."""
    assert state.partial is not None and state.total is not None
    state.results.flush()
    return {
        "partial": own(state.partial),
        "total": own(state.total),
        "pending": state.pending,
        "layer_squares": own(state.moments.layer_squares),
    }


def krylov_with(state: KrylovState, sums: dict[str, Any]) -> KrylovState:
    """``state`` at the beginning of a read, with the sums that the same read had come to."""
    assert state.partial is not None and state.total is not None
    state.partial.copy_(sums["partial"])
    state.total.copy_(sums["total"])
    state.moments.layer_squares.copy_(sums["layer_squares"])
    return replace(state, pending=sums["pending"])


def covariance_sums(state: CovarianceState) -> dict[str, Any]:
    """The sums of the read under way."""
    return {
        "products": own(state.products),
        "sums": own(state.sums),
        "layer_squares": own(state.moments.layer_squares),
    }


def covariance_load(state: CovarianceState, sums: dict[str, Any]) -> None:
    """Put them back."""
    state.products.copy_(sums["products"])
    state.sums.copy_(sums["sums"])
    state.moments.layer_squares.copy_(sums["layer_squares"])


def incremental_saved(state: IncrementalState) -> dict[str, Any]:
    """The state, rows that wait for their batch included."""
    return {
        "n_seen": state.n_seen,
        "mean": own(state.mean),
        "directions": own(state.directions),
        "squares": own(state.squares),
        "pending": own(state.pending),
        "discarded": state.discarded,
    }


def incremental_with(state: IncrementalState, saved: dict[str, Any]) -> IncrementalState:
    """``state`` before any row, with what was saved."""
    device = state.shift.device
    return replace(
        state,
        n_seen=saved["n_seen"],
        discarded=saved["discarded"],
        **{name: saved[name].to(device) for name in ("mean", "directions", "squares", "pending")},
    )


def own(tensor: Tensor) -> Tensor:
    """``tensor`` on the host, in memory that holds nothing else: torch saves all of what a view looks into."""
    tensor = tensor.detach().cpu()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
