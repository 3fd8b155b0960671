"""Whole jobs on the double of a card: how :class:`device_jobs.Place` reaches it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import device_jobs
import pytest
import torch
from device_jobs import Limited, Place
from host_streams import HostStreams
from support.cuda_double import Counts, cuda_double

import skillaxes
from skillaxes import devices
from skillaxes.pca.krylov import KrylovRead
from skillaxes.stream import device as streams
from skillaxes.stream import gds


class DoubleStreams(HostStreams):
    """The streams of the double: its memory, and copies to the host that nothing waits for."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="cuda")

    def download(self, source: torch.Tensor) -> torch.Tensor:
        return source.to("cpu", non_blocking=True)


class DoublePlace(Place):
    """Jobs on the double.

    Parameters
    ----------
    folder : where the compiled guard is kept

    Attributes
    ----------
    counts : what the last job asked of the card
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("cuda", lambda device: DoubleStreams(free=device_jobs.ROOMY))
        self._folder = folder
        self.counts = Counts()

    @contextmanager
    def card(self, free: int = device_jobs.ROOMY, l2: int = device_jobs.L2) -> Iterator[Counts]:
        """The double in the place of a card, with that much free memory and L2."""

        def opened(device: torch.device) -> Any:
            return Limited(self._open(device), free, l2) if device.type == "cuda" else None

        with pytest.MonkeyPatch.context() as patch, cuda_double(self._folder) as self.counts:
            patch.setattr(devices, "missing_for_cuda", lambda: None)
            patch.setattr(gds, "missing", lambda: "no GPUDirect on a double")
            patch.setattr(streams, "device_streams", opened)
            yield self.counts

    def discover(
        self, store: Path, *arguments: Any, free: int = device_jobs.ROOMY, l2: int = device_jobs.L2, **options: Any
    ) -> Any:
        """``skillaxes.discover`` there."""
        with self.card(free, l2):
            return skillaxes.discover(store, *arguments, device="cuda", **{"components": device_jobs.K, **options})

    def apply(self, store: Path, *arguments: Any, **options: Any) -> Any:
        """``skillaxes.apply`` there."""
        with self.card():
            return skillaxes.apply(store, *arguments, device="cuda", **options)

    def panels(self, store: Path, **options: Any) -> list[list[PanelCounts]]:
        """What each panel of each read of the block Krylov iteration asks of the card, in a job there."""
        reads: dict[int, list[PanelCounts]] = {}
        original = KrylovRead.update

        def update(read: KrylovRead, panel: Any) -> None:
            before = self.counts.launches.total(), self.counts.waits.total(), self.counts.copies_to_host
            original(read, panel)
            after = self.counts.launches.total(), self.counts.waits.total(), self.counts.copies_to_host
            seen = PanelCounts(*(new - old for new, old in zip(after, before, strict=True)))
            reads.setdefault(id(read), []).append(seen)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(KrylovRead, "update", update)
            self.discover(store, **options)
        return list(reads.values())


@dataclass(frozen=True)
class PanelCounts:
    """Of one panel: operations launched on the card, waits of the host for it, copies to the host."""

    launches: int
    waits: int
    copies_to_host: int

    @classmethod
    def most(cls, panels: Sequence[PanelCounts]) -> PanelCounts:
        """The most of each that one of the panels asks."""
        return cls(*(max(getattr(panel, one.name) for panel in panels) for one in fields(cls)))

    def within(self, most: PanelCounts) -> bool:
        """Whether none of them is above ``most``."""
        return all(getattr(self, one.name) <= getattr(most, one.name) for one in fields(self))
