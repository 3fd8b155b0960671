"""The stores that the tests of the reader share. Test files are no package: what they share is found by its folder."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.matrices import power_law, rounded, write_store

sys.path.insert(0, str(Path(__file__).parent))

from reader_stores import LAYOUTS, D, N

from skillaxes.stream import reader as readers


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return rounded(power_law(N, D, exponent=0.5), "float16")


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path, rows: np.ndarray, layout: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    if layout.endswith("not local"):
        monkeypatch.setattr(readers, "can_map", lambda path: False)
    return write_store(tmp_path / "store", rows, "float16", **LAYOUTS[layout])


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name == "skillaxes-reader"]
    assert not left, "a reader thread is still there"
