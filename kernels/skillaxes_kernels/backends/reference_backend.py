"""The definition as a backend, for callers that name it: everything in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skillaxes_kernels import reference
from skillaxes_kernels.backends import torch_backend
from skillaxes_kernels.types import PanelSpec, Prepared, Projection


@dataclass(frozen=True)
class ReferencePrepared(Prepared):
    """Copies of the directions (d, l), shift (d,) and scale (d,)."""

    directions: Tensor
    shift: Tensor | None
    scale: Tensor | None


@dataclass(frozen=True)
class ReferenceBackend:
    """See :mod:`skillaxes_kernels.reference`."""

    name = "reference"
    title = "the definition"
    automatic_on = None
    converts = True

    def declines(self, spec: PanelSpec) -> None:
        """It serves all panels."""

    def round_directions(self, directions: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
        """Directions as they are."""
        return directions

    def prepare(
        self, spec: PanelSpec, directions: Tensor, shift: Tensor | None, scale: Tensor | None
    ) -> ReferencePrepared:
        """Copies."""
        shift, scale = (None if vector is None else vector.clone() for vector in (shift, scale))
        return ReferencePrepared(self.name, spec, directions.shape[1], directions.clone(), shift, scale)

    def project(
        self, pieces: tuple[Tensor, ...], prepared: Prepared, *, epilogue: str, bad: Tensor | None
    ) -> Projection:
        """Bad rows are found anew, and results are float64."""
        assert isinstance(prepared, ReferencePrepared)
        panel = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return reference.project(panel, prepared.directions, prepared.shift, scale=prepared.scale, epilogue=epilogue)

    def accumulate(self, z: Tensor, projection: Projection, weights: Tensor, *, bits: int) -> None:
        """All 53 bits count."""
        reference.accumulate(z, projection, weights)

    def column_sums(self, pieces: tuple[Tensor, ...]) -> Tensor:
        """Sums in float64."""
        return torch.cat(pieces).double().sum(dim=0)

    def group_sq_norms(self, projection: Projection, groups: Sequence[slice]) -> Tensor:
        """Norms in float64."""
        return torch_backend.group_sq_norms(projection, groups)


REFERENCE = ReferenceBackend()
