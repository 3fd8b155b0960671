"""Scores in float64 of the rows whose kept projections cancel.

Kept projections are relative to the provisional mean m: x·v = (x - m)·v + m·v. For a row much shorter than m this sum
is rounding alone, and its quotient by |x| may be any cosine. The centred cosine of a row much closer to the mean than m
suffers likewise. Such rows are few and are fetched again from the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from skillaxes.pca.row_scores import RefinedRows, RowScores
from skillaxes.stream.panels import PanelStream

_BATCH = 256  # rows of a product, padded to this number: equal rows get equal scores
_FEW = 1024  # rows up to which they are fetched one by one; more of them take a read


def refine(rows: RowScores, stream: PanelStream, center: Tensor, scale: Tensor | None) -> RowScores:
    """``rows`` with float64 scores of the rows that cancel.

    Parameters
    ----------
    rows : scores of the rows of this process
    stream : the rows of this process
    center : Tensor of shape (d,), float64: the mean that centred scores are relative to
    scale : Tensor of shape (d,), float32: the factor of each column; None for none

    Raises
    ------
    StoreError : the rows cannot be read
    """
    numbers = rows.needs_refinement()
    if not len(numbers):
        return rows
    factor = None if scale is None else scale.cpu().double()
    raw, projection, norm, centered_norm = [], [], [], []
    for batch in _batches(numbers, stream):
        values = batch if factor is None else batch * factor
        centered = values - center
        padding = (0, 0, 0, _BATCH - len(values))
        raw.append((torch.nn.functional.pad(values, padding) @ rows.directions)[: len(values)])
        projection.append((torch.nn.functional.pad(centered, padding) @ rows.directions)[: len(values)])
        norm.append(torch.linalg.vector_norm(values, dim=1))
        centered_norm.append(torch.linalg.vector_norm(centered, dim=1))
    exact = RefinedRows(numbers, torch.cat(raw), torch.cat(projection), torch.cat(norm), torch.cat(centered_norm))
    return replace(rows, refined=exact)


def _batches(rows: np.ndarray, stream: PanelStream) -> Iterator[Tensor]:
    """Rows of the store in batches of at most _BATCH, of shape (n, d), float64, on the CPU.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64, ascending
    """
    if len(rows) <= max(_FEW, stream.n_rows // 1000):
        for at in range(0, len(rows), _BATCH):
            segments = [(row, row + 1) for row in rows[at : at + _BATCH].tolist()]
            yield stream.sample(segments).double()
        return
    batch: list[Tensor] = []
    for panel in stream.read():
        first, last = np.searchsorted(rows, [panel.start, panel.start + panel.count])
        places = torch.from_numpy(rows[first:last] - panel.start).to(panel.rows.device)
        batch.extend(panel.rows[places].double().cpu())
        while len(batch) >= _BATCH:
            yield torch.stack(batch[:_BATCH])
            del batch[:_BATCH]
    if batch:
        yield torch.stack(batch)
