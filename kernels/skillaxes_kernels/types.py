"""What the kernels take and give back, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

# Largest squared norm that a float32 result can hold; a row beyond it has no usable norm.
MAX_SQ_NORM = torch.finfo(torch.float32).max
# Below this squared norm float32 has no full precision left: such a row counts as a row of zeros.
MIN_SQ_NORM = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Projection:
    """A panel seen by :func:`skillaxes_kernels.project`. With ``y = panel * scale - shift`` and bad rows zeroed:

    Attributes
    ----------
    dots : float32 Tensor of shape (b, l), ``y @ directions``; the cosines with ``epilogue="cosines"``
    sq_norms : float32 Tensor of shape (b,), ``|y|^2``
    bad : bool Tensor of shape (b,): rows with NaN or infinity, or whose squared norm float32 cannot hold.
        Their dots and squared norms are 0 and they add nothing in ``accumulate``.
    overflowed : bool Tensor of shape (b,), the part of ``bad`` whose entries are all finite:
        ``|y|`` is above 1.8e19, the values are at fault, not the writing of the store
    pieces : Tensors whose rows follow each other, what ``accumulate`` multiplies: ``y`` itself in float32 (it lives
        in the scratch, the next ``project`` with that scratch overwrites it), or the panel as it was given
    shift, scale : what ``accumulate`` still has to apply to ``pieces``; None where they are ``y``
    backend : the name of the implementation that ran
    native : the panel as the compiled products see it; None where another implementation ran
    """

    dots: Tensor
    sq_norms: Tensor
    bad: Tensor
    overflowed: Tensor
    pieces: tuple[Tensor, ...]
    shift: Tensor | None
    scale: Tensor | None
    backend: str
    native: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """(b, d)."""
        return sum(map(len, self.pieces)), self.pieces[0].shape[1]

    @cached_property
    def rows(self) -> Tensor:
        """The pieces in one, of shape (b, d); a copy where they lie apart."""
        return self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces)


@dataclass
class Scratch:
    """Buffers of one panel, allocated once, owned by one caller at a time.

    Attributes
    ----------
    rows : float32 Tensor of shape (panel_rows, d), or None where the kernel needs no copy
    wide : float64 Tensor of shape (panel_rows, d) for float64 panels, else None
    prepared : what the kernel made of the last block of directions; an entry is valid for one version of it
    """

    rows: Tensor | None
    wide: Tensor | None
    prepared: dict[torch.dtype, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes held in panel buffers."""
        return sum(t.numel() * t.element_size() for t in (self.rows, self.wide) if t is not None)


def cosines(dots: Tensor, sq_norms: Tensor) -> Tensor:
    """``dots / |y|``, in place; 0 for rows of zeros."""
    inverse = torch.where(sq_norms < MIN_SQ_NORM, 0.0, sq_norms.clamp(min=MIN_SQ_NORM).rsqrt())
    return dots.mul_(inverse[:, None])


def require_finite(**vectors: Tensor | None) -> None:
    """Raises ValueError where a vector holds NaN or infinity, which is no fault of the rows."""
    for name, vector in vectors.items():
        if vector is not None and not bool(torch.isfinite(vector).all()):
            raise ValueError(f"{name} holds NaN or infinity; finite entries are needed")
