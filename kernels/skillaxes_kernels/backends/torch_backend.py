"""Plain torch, for CPUs and for a GPU where the fused kernel declines.

One pass converts the panel to float32 in a reused buffer and centres it there; the two products and the norms
then read that buffer. Measured on two cores (AMX): float16 to float32 8 G elements/s, centring and norms 14
each, products 200 to 280 GFLOP/s. Torch's other ways are slower: a mixed-type ``torch.sub`` 0.9,
``(y * y).sum`` 1 G elements/s, and a float16 product on a CPU is 600 times slower than float32.

A row's result depends on that row and on the panel's shape alone: no sum mixes rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from skillaxes_kernels.centring import Centring
from skillaxes_kernels.rounding import HALVES, rounded
from skillaxes_kernels.types import PanelSpec, Prepared, Projection, cosines

_FEW = 64  # rows that are converted at once for column sums


@dataclass(frozen=True)
class TorchPrepared(Prepared):
    """Directions as they are, and buffers: 4 bytes an element of a panel, 12 for float64 panels.

    Attributes
    ----------
    directions : float32 Tensor of shape (d, l)
    centring : in float32, or in float64 for float64 panels
    rows : float32 Tensor of shape (rows, d), the centred panel
    wide : float64 Tensor of shape (rows, d), where a float64 panel is centred; else None
    """

    directions: Tensor
    centring: Centring
    rows: Tensor
    wide: Tensor | None


@dataclass(frozen=True)
class TorchBackend:
    """Plain torch on one kind of device: two backends for the caller, ``cpu`` and ``torch``."""

    name: str
    automatic_on: Literal["cpu", "gpu"]
    title = "plain torch"
    converts = True

    def declines(self, spec: PanelSpec) -> str | None:
        """Why it cannot serve ``spec``: panels on the other kind of device."""
        on_cpu = spec.device.type == "cpu"
        if on_cpu == (self.automatic_on == "cpu"):
            return None
        remedy = "the CPU; use backend='cpu'" if on_cpu else f"{spec.device.type}; move them to the CPU"
        return f"the panels are on {remedy}"

    def round_directions(self, directions: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
        """On a GPU rounded as the fused kernel needs them, so that a fallback solves the same problem."""
        if self.automatic_on == "cpu" or dtype not in HALVES:
            return directions
        return rounded(directions, dtype, scale)

    def prepare(self, spec: PanelSpec, directions: Tensor, shift: Tensor | None, scale: Tensor | None) -> TorchPrepared:
        """Copies of the vectors in the dtype of the arithmetic, and the buffers."""
        rows = torch.empty((spec.rows, spec.columns), dtype=torch.float32, device=spec.device)
        wide = torch.empty_like(rows, dtype=torch.float64) if spec.dtype == torch.float64 else None
        centring = Centring.of(shift, scale, torch.float32 if wide is None else torch.float64)
        return TorchPrepared(self.name, spec, directions.shape[1], directions.clone(), centring, rows, wide)

    def project(
        self, pieces: tuple[Tensor, ...], prepared: Prepared, *, epilogue: str, bad: Tensor | None
    ) -> Projection:
        """Rows that are known to be ``bad`` spare the pass that takes the norms."""
        assert isinstance(prepared, TorchPrepared)
        y = _centred(pieces, prepared)  # (b, d)
        if bad is None:
            sq_norms = torch.linalg.vector_norm(y, dim=1).square_()  # (b,)
            bad = ~torch.isfinite(sq_norms)
        else:
            sq_norms = y.new_full((len(y),), torch.nan)
        overflowed = torch.zeros_like(bad)
        suspects = bad.nonzero().squeeze(1)
        if len(suspects):
            overflowed[suspects] = torch.isfinite(torch.cat(pieces)[suspects]).all(dim=1)
            y.index_fill_(0, suspects, 0.0)
            sq_norms.index_fill_(0, suspects, 0.0)
        with matmul_precision(y.device, "ieee"):
            dots = torch.mm(y, prepared.directions)  # (b, l)
        if epilogue == "cosines":
            dots = cosines(dots, sq_norms)
        return Projection(dots, sq_norms, bad, overflowed, (y,), None, None, self.name)

    def accumulate(self, z: Tensor, projection: Projection, weights: Tensor, *, bits: int) -> None:
        """``z += rows^T @ weights`` in float32; 8 bits let the unit round its operands (bfloat16 or TF32).

        With z the transpose of a contiguous tensor, the product is computed as that tensor, which MKL does in two
        thirds to nine tenths of the time. On a CPU 8 bits cost no conversion pass (the product rounds its operands as
        it packs them) and sum in float32: 2.7 times faster with AMX, no different where the CPU has no bfloat16 unit.
        """
        rows = projection.rows
        reduced = "bf16" if z.device.type == "cpu" else "tf32"
        with matmul_precision(z.device, reduced if bits == 8 else "ieee"):
            if z.stride(0) == 1:
                z.T.addmm_(weights.T, rows)
            else:
                z.addmm_(rows.T, weights)

    def column_sums(self, pieces: tuple[Tensor, ...]) -> Tensor:
        """See :func:`column_sums`."""
        return column_sums(pieces)

    def group_sq_norms(self, projection: Projection, groups: Sequence[slice]) -> Tensor:
        """See :func:`group_sq_norms`."""
        return group_sq_norms(projection, groups)


ON_CPU = TorchBackend("cpu", "cpu")
ON_GPU = TorchBackend("torch", "gpu")


def column_sums(pieces: Sequence[Tensor]) -> Tensor:
    """Sums of the columns over all rows, (d,), float64; of a few rows at once in float32, wherever a piece ends."""
    total = torch.zeros(pieces[0].shape[1], dtype=torch.float64, device=pieces[0].device)
    exact = torch.float64 if pieces[0].dtype == torch.float64 else torch.float32
    for rows in _few_at_once(pieces):
        total += rows.to(exact).sum(dim=0)
    return total


def _few_at_once(pieces: Sequence[Tensor]) -> Iterator[Tensor]:
    """The rows of all ``pieces``, :data:`_FEW` at once, the last ones fewer; copied, since torch sums a single column
    in another order where it is strided.
    """
    few, missing = list[Tensor](), _FEW
    for piece in pieces:
        left = piece
        while len(left):
            few.append(left[:missing])
            left, missing = left[missing:], missing - len(few[-1])
            if missing == 0:
                yield torch.cat(few)
                few, missing = [], _FEW
    if few:
        yield torch.cat(few)


def group_sq_norms(projection: Projection, groups: Sequence[slice]) -> Tensor:
    """``|y|^2`` by groups of columns, (b, n_groups), float64, of a projection of any backend."""
    rows = projection.rows
    if projection.shift is not None:  # the kernel left the rows as they were
        rows = rows.float() if projection.scale is None else rows.float() * projection.scale
        rows = rows - projection.shift.float()
    norms = [torch.linalg.vector_norm(rows[:, group], dim=1).double() for group in groups]
    return torch.stack(norms, dim=1).square_()


@contextmanager
def matmul_precision(device: torch.device, precision: str) -> Iterator[None]:
    """float32 products in ``precision`` ("ieee", "bf16", "tf32"), whatever the process has set for itself."""
    unit: Any = getattr(torch.backends, "mkldnn" if device.type == "cpu" else "cuda").matmul
    before = unit.fp32_precision
    if before == precision or (before == "none" and precision == "ieee"):
        yield
        return
    unit.fp32_precision = precision
    try:
        yield
    finally:
        unit.fp32_precision = before


def _centred(pieces: Sequence[Tensor], prepared: TorchPrepared) -> Tensor:
    b, centring = sum(map(len, pieces)), prepared.centring
    y = prepared.rows[:b]
    work = y if prepared.wide is None else prepared.wide[:b]
    at = 0
    for piece in pieces:
        work[at : at + len(piece)].copy_(piece)
        at += len(piece)
    if centring.before is not None:
        work.sub_(centring.before)
    if centring.scale is not None:
        work.mul_(centring.scale)
    if centring.after is not None:
        work.sub_(centring.after)
    return y if work is y else y.copy_(work)
