"""Shift and scale as the CPU kernels and plain torch apply them to the rows of a panel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Centring:
    """``y = (panel - before) * scale - after``, which is ``panel * scale - shift``.

    The shift is taken off before the scale: ``panel * scale`` rounds at the size of the mean, which is noise in every
    row where the mean of a column is far larger than its spread; ``shift / scale`` rounds once for all rows, which
    moves the shift alone.

    Attributes
    ----------
    before : Tensor of shape (d,), ``shift / scale``, 0 where the scale is 0; None for no shift
    scale : Tensor of shape (d,), or None for 1
    after : Tensor of shape (d,), the shift of the columns of scale 0; None where there is none
    """

    before: Tensor | None = None
    scale: Tensor | None = None
    after: Tensor | None = None

    @classmethod
    def of(cls, shift: Tensor | None, scale: Tensor | None, dtype: torch.dtype) -> Centring:
        """Contiguous copies in ``dtype``; ``shift`` and ``scale`` are float32 or float64 of shape (d,), or None."""
        if scale is None:
            return cls(None if shift is None else _own(shift, dtype))
        if shift is None:
            return cls(scale=_own(scale, dtype))
        left = torch.where(scale == 0, shift, 0).to(dtype)
        return cls(_unscaled(shift, scale).to(dtype), _own(scale, dtype), left if bool(left.any()) else None)


def _unscaled(shift: Tensor, scale: Tensor) -> Tensor:
    """shift / scale in float64, of shape (d,); 0 where the scale is 0."""
    factor = scale.double()
    return torch.where(factor == 0, 0.0, shift.double() / torch.where(factor == 0, 1.0, factor))


def _own(vector: Tensor, dtype: torch.dtype) -> Tensor:
    return vector.to(dtype, copy=True).contiguous()
