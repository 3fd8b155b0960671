"""Directions in the precision of the matrix unit: rounded blocks, and blocks split into exact terms.

A half-precision panel meets its tensor cores without loss when the directions are half-precision numbers too.
A caller that is free to choose its basis therefore rounds it first and takes the rounded block as the basis.
Directions that must be taken as they are get split into two or three half-precision terms, whose products add
up in the same float32 sums.

Every column is first multiplied by a power of two that brings its largest entry to 2^12: exact, and it keeps
float16's narrow range out of the matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skillaxes_kernels.backends import native

HALVES = (torch.float16, torch.bfloat16)
_TOP_EXPONENT = 12


def round_directions(
    directions: Tensor, panel_dtype: torch.dtype, device: torch.device | str, scale: Tensor | None = None
) -> Tensor:
    """The block nearest to ``directions`` that ``project`` multiplies exactly in one product.

    Parameters
    ----------
    directions : Tensor of shape (d, l)
    panel_dtype : dtype of the panels to come
    device : where they will be projected; only its type counts
    scale : Tensor of shape (d,), the per-column factor that ``project`` will get, or None

    Returns
    -------
    float32 Tensor of shape (d, l). On a CPU with AMX rounded to 16 bits, for every panel but float64; on other CPUs,
    and for float32 and float64 panels on a GPU, plain float32. On CUDA with
    half-precision panels ``scale * result`` is ``scale * directions`` rounded to the panel's dtype (to float32's
    rounding of the division by ``scale``; 0 where ``scale`` is 0). Rounding twice changes nothing.
    """
    directions = directions.float()
    device = torch.device(device)
    if device.type == "cpu":
        return native.round_to_terms(directions) if native.declines("amx", panel_dtype) is None else directions
    if panel_dtype not in HALVES:
        return directions
    return rounded(directions, panel_dtype, scale)


def rounded(directions: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """:func:`round_directions` for half-precision tensor cores, on any device."""
    terms, exponents = split(_scaled(directions, scale), dtype, 1)
    block = torch.ldexp(terms[0].float(), -exponents)
    if scale is None:
        return block
    factor = scale.float()[:, None]
    return torch.where(factor == 0, 0.0, block / torch.where(factor == 0, 1.0, factor))


def split(block: Tensor, dtype: torch.dtype, n_terms: int) -> tuple[Tensor, Tensor]:
    """``block`` as a sum of ``n_terms`` half-precision blocks, times a power of two for each column.

    Parameters
    ----------
    block : float32 Tensor of shape (n, l)
    dtype : float16 or bfloat16
    n_terms : 1 rounds; float16 reaches 22 bits with 2, bfloat16 16 bits with 2 and 24 with 3

    Returns
    -------
    (terms (n_terms, n, l) of ``dtype``, exponents (l,) int32) with ``block ~ sum(terms) * 2^-exponents``
    """
    exponents = _TOP_EXPONENT - _exponent_of_largest(block, dtype)  # (l,)
    rest = torch.ldexp(block, exponents)
    terms = []
    for _ in range(n_terms):
        terms.append(rest.to(dtype))
        rest = rest - terms[-1].float()
    return torch.stack(terms), exponents


def n_terms_of(dtype: torch.dtype) -> int:
    """How many half-precision terms hold a float32 number to within its own precision (float16: 22 bits)."""
    return 2 if dtype == torch.float16 else 3


def _scaled(directions: Tensor, scale: Tensor | None) -> Tensor:
    return directions if scale is None else directions * scale.float()[:, None]


def _exponent_of_largest(block: Tensor, dtype: torch.dtype) -> Tensor:
    # The exponent is that of the *rounded* largest entry: a block that was rounded already gets the same one.
    bits = 11 if dtype == torch.float16 else 8
    largest = block.abs().amax(dim=0) if len(block) else block.new_zeros(block.shape[1])
    mantissa, exponent = torch.frexp(largest)
    return exponent + (torch.round(mantissa * 2.0**bits) >= 2.0**bits).to(exponent.dtype)
