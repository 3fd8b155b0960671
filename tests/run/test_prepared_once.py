"""The law: directions are prepared once a read of the store and once an iteration of the warm start, never a panel."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.matrices import power_law, rounded, write_store

import skillaxes
import skillaxes_kernels as kernels
from skillaxes.pca.warm_start import ITERATIONS
from skillaxes.run import plan


@pytest.mark.parametrize("solver", ["krylov", "covariance", "incremental"])
def test_directions_are_prepared_once_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str) -> None:
    store = write_store(tmp_path / "store", rounded(power_law(3000, 300), "float16"), "float16", chunk_rows=500)
    monkeypatch.setattr(plan, "PANEL_BYTES", 1 << 16)
    calls: Counter[str] = Counter()

    def counted(name: str) -> Any:
        original = getattr(kernels, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return original(*arguments, **named)

        return call

    for name in ("prepare", "project"):
        monkeypatch.setattr(kernels, name, counted(name))
    found = skillaxes.discover(store, solver=solver)
    assert calls["prepare"] == found.manifest["reads"] + (1 + ITERATIONS if solver == "krylov" else 0)
    assert calls["project"] > 10 * calls["prepare"]
