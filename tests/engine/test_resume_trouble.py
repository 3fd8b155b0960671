"""The law: a checkpoint is gone on from by the same job alone, on the same store wherever it lies; what is damaged is
announced and begun anew, and never makes a job fail or end with other bytes.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matrices import power_law, rounded, write_store
from stopping import Listening, differing, discover, stopped, written

import skillaxes
from skillaxes.errors import RunFolderError, StoreError
from skillaxes.pca import krylov
from skillaxes.run_folder import checkpoint as files
from skillaxes.run_folder.formats import CHECKPOINT
from skillaxes.stream import reader

N, D, K = 2200, 96, 4


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return rounded(power_law(N, D, exponent=0.4, mean=8), "float16")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "store", rows, "float16", chunk_rows=150)


@pytest.fixture(scope="module", autouse=True)
def small_panels() -> Any:
    from skillaxes import planning

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "PANEL_BYTES", 256 * D * 4)
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
        "state.pt", "part-0-of-1.pt", "mark-0-of-1", "rows-krylov.f32", "projections-1.f32", "projections-2.f32",
    }  # fmt: skip
    return tmp_path / "run"


def again(store: Path, run_dir: Path, **options: Any) -> Listening:
    progress = Listening()
    skillaxes.discover(store, run_dir, progress=progress, **{"components": K, "solver": "krylov", **options})
    return progress


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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nonsense(path: Path) -> None:
    path.write_bytes(b"This is no checkpoint at all." * 50)


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, empty, nonsense, gone])
@pytest.mark.parametrize("name", ["state.pt", "part-0-of-1.pt"])
def test_a_damaged_file(
    store: Path, run_dir: Path, expected: dict[str, bytes], name: str, damage: Callable[[Path], None]
) -> None:
    damage(run_dir / CHECKPOINT / name)
    progress = again(store, run_dir)
    assert progress.seen[0] == ("read 1" if name == "state.pt" else "read 2")
    assert damage is gone or any("begun anew" in note for note in progress.notes)
    assert not differing(run_dir, expected)


@pytest.mark.parametrize("damage", [cut, empty, gone])
@pytest.mark.parametrize("name", ["rows-krylov.f32", "projections-1.f32", "projections-2.f32"])
def test_a_damaged_row_file(
    store: Path, run_dir: Path, expected: dict[str, bytes], name: str, damage: Callable[[Path], None]
) -> None:
    damage(run_dir / CHECKPOINT / name)
    progress = again(store, run_dir)
    whole = name == "projections-2.f32"  # of the read under way alone; cut behind the rows that it needs
    assert progress.seen[0] == ("read 2" if whole else "read 1")
    if not (whole and damage is cut):
        assert any("begun anew" in note for note in progress.notes)
    assert not differing(run_dir, expected)


def test_a_checkpoint_of_another_format(
    store: Path, run_dir: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillaxes.checkpoint_records.FORMAT", 99)
    progress = again(store, run_dir)
    assert any("its format is 1, this skillaxes reads 99" in note for note in progress.notes)
    assert progress.seen[0] == "read 1" and not differing(run_dir, expected)


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
    monkeypatch.setattr("skillaxes.planning.PANEL_BYTES", 128 * D * 4)
    progress = again(store, run_dir)
    assert progress.seen[0] == "read 2" and not any("at row" in note for note in progress.notes)
    found = skillaxes.load(run_dir)
    skillaxes.discover(store, run_dir, components=K, solver="krylov", overwrite=True)
    other = skillaxes.load(run_dir)
    np.testing.assert_allclose(found.directions.components, other.directions.components, atol=1e-5)


@pytest.mark.parametrize("step", ["write_state", "write_part", "write_rows", "write_mark"])
@pytest.mark.parametrize("always", [True, False])
def test_a_full_disk_is_announced_and_the_job_goes_on(
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
    original, seen = files.CheckpointFolder.write_mark, []
    from skillaxes import checkpointing

    class Killed(BaseException):
        pass

    def after_panel(self: Any, row: int) -> None:
        seen.append(row)
        self._pace._every = 0 if len(seen) % 3 == 1 else 1e9
        self._pace._marked = -1e9  # a mark at every panel
        real(self, row)
        if len(seen) == panel:
            raise Killed

    real = checkpointing.Checkpoint.after_panel
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpointing.Checkpoint, "after_panel", after_panel)
        skillaxes.discover(store, run_dir, **options)
    assert original is files.CheckpointFolder.write_mark
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
        patch.setattr(reader.Reader, "units", failing)
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
    from skillaxes.cluster import preemption
    from skillaxes.errors import StoppedEarly

    original = krylov.update

    def update(state: Any, panel: Any) -> Any:
        preemption.ask("a test")
        return original(state, panel)

    monkeypatch.setattr(krylov, "update", update)
    with pytest.raises(StoppedEarly, match="nothing to go on from"):
        skillaxes.discover(store, components=K, solver="krylov", checkpoint_every=0)
    preemption._Flag.reason = None


def test_done_before_the_checkpoint_was_taken_away(
    tmp_path: Path, store: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files.CheckpointFolder, "remove", lambda self: None)
        again(store, tmp_path / "run", checkpoint_every=0)
    assert (tmp_path / "run" / CHECKPOINT).exists()
    assert any("done already" in note for note in again(store, tmp_path / "run").notes)
    assert not differing(tmp_path / "run", expected)
