"""Directions in the precision of the matrix unit: rounded blocks, and blocks split into exact terms.

Tensor cores multiply a half-precision panel without loss when the directions are half-precision numbers too.
A caller that is free to choose its basis therefore rounds it first and takes the rounded block as the basis.
Directions that must stay as they are get split into two or three half-precision terms, whose products add up in the
same float32 sums.

Every column is first multiplied by a power of two that brings its largest entry to 2^12. That is exact, and float16's
narrow range plays no part.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
_TOP_EXPONENT = 12


def round_to_terms(directions: Tensor) -> Tensor:
    """Finite float32 ``directions`` rounded to the 16 bits that two bfloat16 terms hold, to nearest."""
    half = 1 << 7  # the lower 8 of float32's 24 bits go
    return directions.view(torch.int32).add(half).bitwise_and_(~(2 * half - 1)).view(torch.float32)


def rounded(directions: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """The float32 block (d, l) nearest to ``directions`` that half-precision tensor cores multiply exactly.

    ``scale * result`` is ``scale * directions`` rounded to ``dtype`` (to float32's rounding of the division by
    ``scale``; 0 where ``scale`` is 0). Rounding twice changes nothing.
    """
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
