"""Plain torch, for CPUs and for a GPU where the fused kernel declines.

One pass converts the panel to float32 in a reused buffer and centres it there; the two products and the norms
then read that buffer. Measured on two cores (AMX): float16 to float32 8 G elements/s, centring and norms 14
each, products 200 to 280 GFLOP/s. What torch offers instead is slower: a mixed-type ``torch.sub`` 0.9,
``(y * y).sum`` 1 G elements/s, and a float16 product on a CPU is 600 times slower than float32.

A row's result depends on that row and on the panel's shape alone: rows meet each other in no sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from skillaxes_kernels.types import Projection, Scratch, cosines, require_finite

_FEW = 64  # rows that are converted at once where the rows themselves are summed


def project(
    pieces: Sequence[Tensor],
    directions: Tensor,
    shift: Tensor | None,
    scale: Tensor | None,
    epilogue: str,
    scratch: Scratch,
    known_bad: Tensor | None = None,
) -> Projection:
    """See :func:`skillaxes_kernels.project`; arguments were checked there."""
    y = _centred(pieces, shift, scale, scratch)  # (b, d)
    if known_bad is None:
        sq_norms = torch.linalg.vector_norm(y, dim=1).square_()  # (b,)
        bad = ~torch.isfinite(sq_norms)
    else:
        sq_norms, bad = y.new_full((len(y),), torch.nan), known_bad
    overflowed = torch.zeros_like(bad)
    suspects = bad.nonzero().squeeze(1)
    if len(suspects):
        overflowed[suspects] = torch.isfinite(torch.cat(tuple(pieces))[suspects]).all(dim=1)
        require_finite(shift=shift, scale=scale)
        y.index_fill_(0, suspects, 0.0)
        sq_norms.index_fill_(0, suspects, 0.0)
    with matmul_precision(y.device, "ieee"):
        dots = torch.mm(y, directions)  # (b, l)
    if epilogue == "cosines":
        dots = cosines(dots, sq_norms)
    return Projection(dots, sq_norms, bad, overflowed, (y,), None, None, "cpu" if y.device.type == "cpu" else "torch")


def accumulate(z: Tensor, rows: Tensor, weights: Tensor, cheap: bool) -> None:
    """``z += rows^T @ weights`` in float32; ``cheap`` lets the unit round its operands (bfloat16 or TF32).

    With z the transpose of a contiguous tensor, the product is computed as that tensor, which MKL does in two thirds to
    nine tenths of the time. On a CPU ``cheap`` costs no conversion pass (the product rounds its operands as it packs
    them) and sums in float32: 2.7 times faster with AMX, no different where the CPU has no bfloat16 unit.
    """
    reduced = "bf16" if z.device.type == "cpu" else "tf32"
    with matmul_precision(z.device, reduced if cheap else "ieee"):
        if z.stride(0) == 1:
            z.T.addmm_(weights.T, rows)
        else:
            z.addmm_(rows.T, weights)


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


def _centred(pieces: Sequence[Tensor], shift: Tensor | None, scale: Tensor | None, scratch: Scratch) -> Tensor:
    assert scratch.rows is not None
    b = sum(map(len, pieces))
    y = scratch.rows[:b]
    work = y if scratch.wide is None or pieces[0].dtype != torch.float64 else scratch.wide[:b]
    at = 0
    for piece in pieces:
        work[at : at + len(piece)].copy_(piece)
        at += len(piece)
    if shift is not None:
        # Before the scale: x * scale rounds at the size of the mean, which is noise in every row where the mean of a
        # column is far larger than its spread; shift / scale rounds once for all rows, which moves the shift alone.
        work.sub_(shift.to(work.dtype) if scale is None else _unscaled(shift, scale).to(work.dtype))
    if scale is not None:
        work.mul_(scale.to(work.dtype))
        if shift is not None and not bool((scale != 0).all()):
            work.sub_(torch.where(scale == 0, shift, 0).to(work.dtype))
    return y if work is y else y.copy_(work)


def _unscaled(shift: Tensor, scale: Tensor) -> Tensor:
    """shift / scale in float64, of shape (d,); 0 where the scale is 0."""
    factor = scale.double()
    return torch.where(factor == 0, 0.0, shift.double() / torch.where(factor == 0, 1.0, factor))
