"""The law: a checkpoint that cannot be written, for want of space or of time, costs what was done since the one before
and never makes a job fail or end with other bytes; none is written where none is needed.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from checkpointed import K, N, again
from support.stopping import differing, discover, stopped, written

import skillaxes
from skillaxes.errors import StoreError
from skillaxes.pca import krylov
from skillaxes.run_folder import checkpoint as files
from skillaxes.run_folder.schema import CHECKPOINT
from skillaxes.stream import reader


@pytest.mark.parametrize("step", ["write_state", "write_part", "write_rows", "write_progress"])
@pytest.mark.parametrize("always", [True, False])
def test_a_full_disk_is_said_and_the_job_goes_on(
    tmp_path: Path,
    store: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    always: bool,
) -> None:
    original, calls = getattr(files.CheckpointFolder, step), []

    def full(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if always or len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files.CheckpointFolder, step, full)
        progress = again(store, tmp_path / "run", checkpoint_every=0)
    assert len(calls) >= 3
    said = [note for note in progress.notes if "no checkpoint could be written" in note]
    assert len(said) == 1 and "No space left on device" in said[0]
    assert not differing(tmp_path / "run", expected)


def test_stopped_with_a_full_disk(
    tmp_path: Path, store: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "_MAGIC", b"no")  # torn at the trailer, as a disk that fills up leaves it

        def full(self: Any, name: str, value: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(files.CheckpointFolder, "_save", full)
        manifest = stopped(discover, store, tmp_path / "run", "read 1", 3, components=K, solver="krylov")
    assert manifest["stopped"]["checkpoint"] is False
    assert again(store, tmp_path / "run").seen[0] == "read 1"
    assert not differing(tmp_path / "run", expected)


@pytest.mark.parametrize("solver", ["krylov", "covariance", "incremental"])
@pytest.mark.parametrize("panel", [2, 7, 11, 16])
def test_killed(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, solver: str, panel: int) -> None:
    """No time for a last checkpoint: what was done since the one before is done again, and counted."""
    options = {"components": K, "solver": solver}
    skillaxes.discover(store, tmp_path / "undisturbed", **options)
    original, seen = files.CheckpointFolder.write_progress, []
    from skillaxes.run import checkpoint as checkpointing

    class Killed(BaseException):
        pass

    def after_panel(self: Any, row: int) -> None:
        seen.append(row)
        self._schedule._every = 0 if len(seen) % 3 == 1 else 1e9
        self._schedule._noted = -1e9  # progress is noted at every panel
        real(self, row)
        if len(seen) == panel:
            raise Killed

    real = checkpointing.Checkpoint.after_panel
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpointing.Checkpoint, "after_panel", after_panel)
        skillaxes.discover(store, run_dir, **options)
    assert original is files.CheckpointFolder.write_progress
    manifest = json.loads((run_dir / "manifest.json").read_text())
    manifest["status"] = "running"  # as a process leaves it that had no time to say anything
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    found = skillaxes.discover(store, run_dir, **options).manifest
    assert not differing(run_dir, written(tmp_path / "undisturbed"))
    lost = (panel - 1) % 3
    whole = skillaxes.load(tmp_path / "undisturbed").manifest
    assert found.get("repeated", {"rows": 0})["rows"] == pytest.approx(256 * lost, abs=250)
    assert found["reads"] >= whole["reads"] + 0.9 * found.get("repeated", {"rows": 0})["rows"] / N


def test_a_store_that_fails_leaves_the_checkpoint(
    store: Path, run_dir: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any, **named: Any) -> None:
        raise StoreError("the disk is away")

    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(reader.Reader, "fetch_units", failing)
        again(store, run_dir)
    assert json.loads((run_dir / "manifest.json").read_text())["status"] == "failed"
    assert again(store, run_dir).seen[0] == "read 2"
    assert not differing(run_dir, expected)


def test_a_short_job_writes_none(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: Any, name: str, value: Any) -> None:
        pytest.fail("a checkpoint that nobody needs")

    monkeypatch.setattr(files.CheckpointFolder, "_save", write)
    again(store, tmp_path / "run")
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_without_a_run_folder_there_is_none(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skillaxes.cluster import signals
    from skillaxes.errors import StoppedEarly

    original = krylov.KrylovRead.update

    def update(self: krylov.KrylovRead, panel: Any) -> None:
        signals.request_stop("a test")
        original(self, panel)

    monkeypatch.setattr(krylov.KrylovRead, "update", update)
    with pytest.raises(StoppedEarly, match="nothing to go on from"):
        skillaxes.discover(store, components=K, solver="krylov", checkpoint_every=0)
    signals._Flag.reason = None


def test_done_before_the_checkpoint_was_taken_away(
    tmp_path: Path, store: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files.CheckpointFolder, "remove", lambda self: None)
        again(store, tmp_path / "run", checkpoint_every=0)
    assert (tmp_path / "run" / CHECKPOINT).exists()
    assert any("done already" in note for note in again(store, tmp_path / "run").notes)
    assert not differing(tmp_path / "run", expected)
