"""The law: while panels come from a device, an update asks for no value and for no shape that depends on values.

Either makes the host wait for the panel under way. On a card torch itself tells (``tests/gpu``); here every operation
outside of the kernels is looked at as it is dispatched.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from device_jobs import Place, discover_here, make_store
from host_streams import HostStreams
from torch.utils._python_dispatch import TorchDispatchMode

import skillaxes_kernels as kernels
from skillaxes.pca.krylov import KrylovRead
from skillaxes.stream.device import DeferredResults

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "item", "equal"}
INDEXING = {"index", "index_put", "index_put_"}


class Watch(TorchDispatchMode):
    """Notes the operations that would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.looking = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.split("::")[1]
        masks = name in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
        if self.looking and (name in WAITING or masks):
            self.found.append(name)
        return function(*args, **(kwargs or {}))

    def aside(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """``original``, not looked at."""

        def call(*arguments: Any, **named: Any) -> Any:
            with self.looking_away():
                return original(*arguments, **named)

        return call

    @contextmanager
    def looking_away(self) -> Any:
        before, self.looking = self.looking, False
        yield
        self.looking = before


def found_in_updates(store: Path, monkeypatch: pytest.MonkeyPatch, *, deferred: bool, **options: Any) -> list[str]:
    watch, original = Watch(), KrylovRead.update

    def update(self: KrylovRead, panel: Any) -> None:
        with watch:
            original(self, panel)

    with monkeypatch.context() as patch:
        patch.setattr(KrylovRead, "update", update)
        patch.setattr(kernels, "project", watch.aside(kernels.project))
        patch.setattr(kernels, "accumulate", watch.aside(kernels.accumulate))
        patch.setattr(DeferredResults, "_deliver_one", watch.aside(DeferredResults._deliver_one))
        if deferred:
            Place("cpu", lambda device: HostStreams()).discover(store, **options)
        else:
            discover_here(store, **options)
    return watch.found


@pytest.mark.parametrize("scale", ["none", "column-std"])
def test_an_update_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: str) -> None:
    store = make_store(tmp_path, layered=True, hidden=50, layer_ids=(3, 7, 11, 15))
    assert found_in_updates(store, monkeypatch, deferred=True, scale=scale) == []


def test_the_watch_sees_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where waiting costs nothing, an update does ask for values."""
    store = make_store(tmp_path, layered=True, hidden=50, layer_ids=(3, 7, 11, 15))
    assert "_local_scalar_dense" in found_in_updates(store, monkeypatch, deferred=False)
