"""A store, an undisturbed job on it and one with a checkpoint. Test files are no package: what they share is found by
its folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.matrices import power_law, rounded, write_store
from support.stopping import discover, stopped, written

sys.path.insert(0, str(Path(__file__).parent))

from checkpointed import D, K, N

import skillaxes
from skillaxes.run_folder.schema import CHECKPOINT


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return rounded(power_law(N, D, exponent=0.4, mean=8), "float16")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "store", rows, "float16", chunk_rows=150)


@pytest.fixture(scope="module", autouse=True)
def small_panels() -> Any:
    from skillaxes.run import plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "panel_rows_for", lambda row_bytes, roomy=True: 256)
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, store: Path) -> dict[str, bytes]:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    skillaxes.discover(store, run_dir, components=K, solver="krylov")
    return written(run_dir)


@pytest.fixture
def run_dir(tmp_path: Path, store: Path) -> Path:
    """A run folder with a checkpoint in the middle of the second read."""
    stopped(discover, store, tmp_path / "run", "read 2", 4, components=K, solver="krylov", checkpoint_every=0)
    assert {path.name for path in (tmp_path / "run" / CHECKPOINT).iterdir()} == {
        "state.pt", "part-0-of-1.pt", "progress-0-of-1", "rows-krylov.f32", "projections-1.f32", "projections-2.f32",
    }  # fmt: skip
    return tmp_path / "run"
