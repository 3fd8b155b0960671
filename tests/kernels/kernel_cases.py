"""The cases of the laws of the kernels: targets, and panels with their directions, shift and scale.

Every panel lies inside a larger buffer of NaN, so that a wrong mask or a wrong stride shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import skillaxes_kernels as kernels
from skillaxes_kernels import PanelSpec, Projection
from skillaxes_kernels.rounding import HALVES, rounded

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Target:
    """A backend on a device; ``processors`` steers the tiling where there is no card."""

    backend: str
    device: str = "cpu"
    processors: int | None = None


@dataclass(frozen=True)
class Case:
    """One panel and its directions. ``mean`` is the size of the mean over that of the spread."""

    dtype: torch.dtype
    b: int
    d: int
    n: int
    mean: float = 0.0
    scaled: bool = False
    round_first: bool = True
    epilogue: str = "dots"
    special: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Problem:
    panel: Tensor
    directions: Tensor
    shift: Tensor | None
    scale: Tensor | None


def project(
    panel: Tensor | Sequence[Tensor],
    directions: Tensor,
    shift: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    epilogue: str = "dots",
    backend: str = "auto",
    bad: Tensor | None = None,
) -> Projection:
    """``kernels.project`` with directions that are prepared for this panel alone."""
    prepared = kernels.prepare(PanelSpec.of(panel), directions, shift, scale, backend=backend)
    return kernels.project(panel, prepared, epilogue=epilogue, bad=bad)


def problem(case: Case, device: str) -> Problem:
    """The panel of a case, inside a buffer of NaN with a row stride of its own."""
    g = torch.Generator().manual_seed(case.seed + 1000 * case.b + case.d)
    rows = torch.randn(case.b, case.d, generator=g, dtype=torch.float64)
    mean = case.mean * torch.randn(case.d, generator=g, dtype=torch.float64)
    rows = rows + mean
    if case.special:
        rows = _with_special_rows(rows, case.dtype)
    room = torch.full((case.b + 2, case.d + 7), torch.nan, dtype=case.dtype)
    room[1 : case.b + 1, 3 : case.d + 3] = rows.to(case.dtype)
    panel = room.to(device)[1 : case.b + 1, 3 : case.d + 3]
    directions = (torch.randn(case.d, case.n, generator=g) / case.d**0.5).to(device)
    scale = (torch.rand(case.d, generator=g) * 3 + 0.1).to(device) if case.scaled else None
    shift = None
    if case.mean:
        shift = mean.float().to(device) * (1.0 if scale is None else scale)
    if case.round_first and case.dtype in HALVES:
        directions = rounded(directions, case.dtype, scale)
    return Problem(panel, directions, shift, scale)


def _with_special_rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max
    rows[0] = 0.0
    rows[2, -1] = torch.nan
    rows[3, 0] = torch.inf
    rows[5, rows.shape[1] // 2] = -torch.inf
    rows[6, 0] = largest  # its square: finite in float16, beyond float32 in the others
    rows[7] = 1e-21  # below the norm that counts as zero, in float32 and bfloat16
    rows[9] = torch.nan
    return rows
