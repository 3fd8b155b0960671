"""The law: a checkpoint is gone on from by the same job alone, on the same store wherever it lies, and from its last
read by any number of processes and with any size of panels; another job is refused, and nothing is touched.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpointed import K, again
from support.matrices import write_store
from support.stopping import differing

import skillaxes
from skillaxes.errors import RunFolderError
from skillaxes.run_folder.schema import CHECKPOINT


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"components": 5}, "--components was 4, now 5"),
        ({"seed": 1}, "--seed was 0, now 1"),
        ({"tolerance": 1e-4}, "--tolerance was 0.001, now 0.0001"),
        ({"solver": "covariance"}, "--solver was krylov, now covariance"),
    ],
)
def test_another_job_is_refused(store: Path, run_dir: Path, options: dict[str, Any], said: str) -> None:
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match=said):
        again(store, run_dir, **options)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_another_store_is_refused(tmp_path: Path, rows: np.ndarray, run_dir: Path) -> None:
    other = write_store(tmp_path / "other", rows + 1, "float16", chunk_rows=150)
    with pytest.raises(RunFolderError, match="another store"):
        again(other, run_dir)


def test_a_store_elsewhere_is_the_same(tmp_path: Path, store: Path, run_dir: Path, expected: dict[str, bytes]) -> None:
    staged = shutil.copytree(store, tmp_path / "staged")
    assert again(staged, run_dir).seen[0] == "read 2"
    assert not differing(run_dir, expected)


def test_options_that_change_nothing(store: Path, run_dir: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    assert again(store, run_dir, checkpoint_every=1e9, memory="2GiB", scratch=tmp_path).seen[0] == "read 2"
    assert not differing(run_dir, expected)


def test_overwrite_starts_afresh(store: Path, run_dir: Path, expected: dict[str, bytes]) -> None:
    progress = again(store, run_dir, overwrite=True)
    assert progress.seen[0] == "read 1" and not any("going on" in note for note in progress.notes)
    assert not differing(run_dir, expected)
    assert json.loads((run_dir / "manifest.json").read_text())["resumptions"] == 0


def test_another_number_of_processes_goes_on_from_the_last_read(
    store: Path, run_dir: Path, expected: dict[str, bytes]
) -> None:
    (run_dir / CHECKPOINT / "part-0-of-1.pt").rename(run_dir / CHECKPOINT / "part-0-of-2.pt")
    progress = again(store, run_dir)
    assert progress.seen[0] == "read 2" and not any("at row" in note for note in progress.notes)
    assert not differing(run_dir, expected)


def test_other_panels_go_on_from_the_last_read(
    store: Path, run_dir: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillaxes.run.plan.panel_rows_for", lambda row_bytes, roomy=True: 128)
    progress = again(store, run_dir)
    assert progress.seen[0] == "read 2" and not any("at row" in note for note in progress.notes)
    found = skillaxes.load(run_dir)
    skillaxes.discover(store, run_dir, components=K, solver="krylov", overwrite=True)
    other = skillaxes.load(run_dir)
    np.testing.assert_allclose(found.directions.components, other.directions.components, atol=1e-5)
