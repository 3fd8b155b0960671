"""Arguments and results of the kernels, and the protocol that a backend implements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

# Largest squared norm that a float32 result can hold; a row beyond it has no usable norm.
MAX_SQ_NORM = torch.finfo(torch.float32).max
# Below this squared norm float32 has no full precision left: such a row counts as a row of zeros.
MIN_SQ_NORM = torch.finfo(torch.float32).tiny


class PanelSpec(NamedTuple):
    """The panels that a backend is chosen and directions are prepared for.

    Attributes
    ----------
    rows : the most rows that a panel has; 0 where that is not known yet
    columns : d
    dtype : float16, bfloat16, float32 or float64
    device : where the panels are
    """

    rows: int
    columns: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, panel: Tensor | Sequence[Tensor]) -> PanelSpec:
        """The spec of one panel of shape (b, d), or of one whose rows lie in several tensors."""
        pieces = (panel,) if isinstance(panel, Tensor) else panel
        return cls(sum(map(len, pieces)), pieces[0].shape[1], pieces[0].dtype, pieces[0].device)


@dataclass(frozen=True)
class Prepared:
    """Directions, shift and scale in the form in which a backend multiplies panels by them, with its buffers.

    From :func:`skillaxes_kernels.prepare`, for any number of panels, one at a time. It owns its memory: later changes
    of the tensors that it was made of do not count. Each backend extends this class by its own form.

    Attributes
    ----------
    backend : the name of the backend
    spec : the panels that it serves
    n_directions : l
    """

    backend: str
    spec: PanelSpec
    n_directions: int


@dataclass(frozen=True)
class Projection:
    """The result of :func:`skillaxes_kernels.project`. With ``y = panel * scale - shift`` and bad rows zeroed:

    Attributes
    ----------
    dots : float32 Tensor of shape (b, l), ``y @ directions``; the cosines with ``epilogue="cosines"``
    sq_norms : float32 Tensor of shape (b,), ``|y|^2``
    bad : bool Tensor of shape (b,): rows with NaN or infinity, or whose squared norm float32 cannot hold.
        Their dots and squared norms are 0 and they add nothing in ``accumulate``.
    overflowed : bool Tensor of shape (b,), the part of ``bad`` whose entries are all finite:
        ``|y|`` is above 1.8e19, the values are at fault, not the writing of the store
    pieces : Tensors whose rows follow each other: ``y`` itself in float32 (in a buffer of the prepared directions,
        which the next ``project`` with them overwrites), or the panel as it was given
    shift, scale : Tensors of shape (d,) that turn ``pieces`` into ``y``; None where they are ``y``
    backend : the name of the backend that made it
    """

    dots: Tensor
    sq_norms: Tensor
    bad: Tensor
    overflowed: Tensor
    pieces: tuple[Tensor, ...]
    shift: Tensor | None
    scale: Tensor | None
    backend: str

    @property
    def shape(self) -> tuple[int, int]:
        """(b, d)."""
        return sum(map(len, self.pieces)), self.pieces[0].shape[1]

    @cached_property
    def rows(self) -> Tensor:
        """The pieces in one, of shape (b, d); a copy where they lie apart."""
        return self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces)


class Backend(Protocol):
    """One implementation. Its methods trust their arguments: ``api`` has checked them.

    A backend is one file of ``backends/`` and one entry of ``api.BACKENDS``.
    """

    @property
    def name(self) -> str:
        """The name that a caller chooses it by."""

    @property
    def title(self) -> str:
        """The name that the reasons of a choice call it by."""

    @property
    def automatic_on(self) -> Literal["cpu", "gpu"] | None:
        """The kind of device on which it is chosen unless the caller names another; None where it has to be named."""

    @property
    def converts(self) -> bool:
        """Whether it writes a panel out in float32 before it multiplies it."""

    def declines(self, spec: PanelSpec) -> str | None:
        """Why it cannot serve such panels on this machine; None where it can."""

    def round_directions(self, directions: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
        """See :func:`skillaxes_kernels.round_directions`; ``directions`` is float32, ``dtype`` that of the panels."""

    def prepare(self, spec: PanelSpec, directions: Tensor, shift: Tensor | None, scale: Tensor | None) -> Prepared:
        """See :func:`skillaxes_kernels.prepare`. Nothing that the caller can change is kept by reference."""

    def project(
        self, pieces: tuple[Tensor, ...], prepared: Prepared, *, epilogue: str, bad: Tensor | None
    ) -> Projection:
        """See :func:`skillaxes_kernels.project`; ``prepared`` is the backend's own."""

    def accumulate(self, z: Tensor, projection: Projection, weights: Tensor, *, bits: int) -> None:
        """See :func:`skillaxes_kernels.accumulate`; ``projection`` is the backend's own."""

    def column_sums(self, pieces: tuple[Tensor, ...]) -> Tensor:
        """See :func:`skillaxes_kernels.column_sums`."""

    def group_sq_norms(self, projection: Projection, groups: Sequence[slice]) -> Tensor:
        """See :func:`skillaxes_kernels.group_sq_norms`; bad rows may hold anything."""


def cosines(dots: Tensor, sq_norms: Tensor) -> Tensor:
    """``dots / |y|``, in place; 0 for rows of zeros."""
    inverse = torch.where(sq_norms < MIN_SQ_NORM, 0.0, sq_norms.clamp(min=MIN_SQ_NORM).rsqrt())
    return dots.mul_(inverse[:, None])
