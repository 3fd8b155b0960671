"""The law: a job that stops anywhere and is run again ends with the bytes of a job that nothing disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.matrices import power_law, rounded, write_store
from support.stopping import Listening, differing, discover, stopped, written

import skillaxes

N, D, PANEL = 3000, 220, 256
STORES: dict[str, dict[str, Any]] = {
    "plain": {"chunk_rows": 97},
    "one chunk, checked in parts": {"chunk_rows": N},
    "sharded": {"chunk_rows": 64, "shard_size": 64 * D * 2 * 5},
    "compressed": {"chunk_rows": 64, "compressed": True},
}
READS = {
    "krylov": ("read 1", "read 2", "read 3"),
    "covariance": ("read 1 (covariance)", "read 2"),
    "incremental": ("read 1 (incremental)", "read 2"),
}


@pytest.fixture(scope="module", autouse=True)
def small_panels() -> Any:
    """Twelve panels a read, a float32 sum every three of them."""
    from skillaxes.pca import krylov
    from skillaxes.run import plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "panel_rows_for", lambda row_bytes, roomy=True: PANEL)
        patch.setattr(krylov, "FLUSH", 3)
        yield


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    made = power_law(N, D, exponent=0.4)
    made[100:200] = made[2000:2100]
    made[[7, 2900]] = 0
    made[1500, 3] = np.nan
    return rounded(made, "float16")


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "store", rows, "float16", **STORES[request.param])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Any:
    """The files of a job that nothing disturbs, by its options; each job is run once."""
    known: dict[str, dict[str, bytes]] = {}

    def files(**options: Any) -> dict[str, bytes]:
        name = repr(sorted(options.items()))
        if name not in known:
            run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
            skillaxes.discover(store, run_dir, **options)
            known[name] = written(run_dir)
        return known[name]

    return files


@pytest.mark.parametrize("panels", [1, 5, 12])
@pytest.mark.parametrize(("solver", "read"), [(solver, read) for solver, reads in READS.items() for read in reads])
def test_stopped_in_a_read(tmp_path: Path, store: Path, undisturbed: Any, solver: str, read: str, panels: int) -> None:
    options = {"solver": solver, "bad_rows": "skip", "components": 4}
    manifest = stopped(discover, store, tmp_path / "run", read, panels, **options)
    assert manifest["stopped"]["row"] == min(panels * PANEL, N) and manifest["stopped"]["checkpoint"]
    progress = Listening()
    found = skillaxes.discover(store, tmp_path / "run", progress=progress, **options).manifest
    assert progress.seen[0] == read and any("going on at row" in note for note in progress.notes)
    assert not differing(tmp_path / "run", undisturbed(**options))
    assert found["resumptions"] == 1 and found["attempts"] == 2
    names = [stage["name"] for stage in found["stages"]]
    assert names.count(read) == 1 and [name for name in names if "read" in name] == list(READS[solver])
