"""Rows whose projections cancel, read again from the store in float64.

Projections are kept relative to the provisional mean m: x·v = (x - m)·v + m·v. Of a row much shorter than m nothing but
rounding is left of that, and dividing by |x| makes it a cosine of any size; the same happens to the centred cosine of a
row that lies much closer to the mean than m does. Such rows are few; they are fetched again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from skillaxes.pca.row_scores import RefinedRows, RowScores
from skillaxes.stream.panels import PanelStream

_BATCH = 256  # rows multiplied at once; always as many, so that equal rows get equal scores
_FEW = 1024  # rows that are fetched one by one; more of them take a read


def refine(rows: RowScores, stream: PanelStream, center: Tensor, scale: Tensor | None) -> RowScores:
    """``rows`` with the rows that cancel made exact.

    Parameters
    ----------
    stream : where the rows come from
    center : Tensor of shape (d,), float64: the mean that centred scores are relative to
    scale : Tensor of shape (d,), the factor of each column, or None
    """
    numbers = rows.needs_refinement()
    if not len(numbers):
        return rows
    factor = None if scale is None else scale.cpu().double()
    raw, projection, norm, centered_norm = [], [], [], []
    for found in _batches(numbers, stream):
        values = found if factor is None else found * factor
        centered = values - center
        padding = (0, 0, 0, _BATCH - len(values))
        raw.append((torch.nn.functional.pad(values, padding) @ rows.directions)[: len(values)])
        projection.append((torch.nn.functional.pad(centered, padding) @ rows.directions)[: len(values)])
        norm.append(torch.linalg.vector_norm(values, dim=1))
        centered_norm.append(torch.linalg.vector_norm(centered, dim=1))
    exact = RefinedRows(numbers, torch.cat(raw), torch.cat(projection), torch.cat(norm), torch.cat(centered_norm))
    return replace(rows, refined=exact)


def _batches(rows: np.ndarray, stream: PanelStream) -> Iterator[Tensor]:
    """The rows, ascending, up to _BATCH at once, of shape (n, d), float64, on the CPU."""
    if len(rows) <= max(_FEW, stream.n_rows // 1000):
        for at in range(0, len(rows), _BATCH):
            segments = [(row, row + 1) for row in rows[at : at + _BATCH].tolist()]
            yield stream.sample(segments).double()
        return
    held: list[Tensor] = []
    for panel in stream.read():
        first, last = np.searchsorted(rows, [panel.start, panel.start + panel.count])
        places = torch.from_numpy(rows[first:last] - panel.start).to(panel.rows.device)
        held.extend(panel.rows[places].double().cpu())
        while len(held) >= _BATCH:
            yield torch.stack(held[:_BATCH])
            del held[:_BATCH]
    if held:
        yield torch.stack(held)
