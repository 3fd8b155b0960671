"""The law: a checkpoint that is damaged or of another format is named and begun anew, and never makes a job fail or
end with other bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from checkpointed import again
from support.stopping import differing

from skillaxes.run.checkpoint import FORMAT
from skillaxes.run_folder.schema import CHECKPOINT


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
    monkeypatch.setattr("skillaxes.run.checkpoint.FORMAT", 99)
    progress = again(store, run_dir)
    assert any(f"its format is {FORMAT}, this skillaxes reads 99" in note for note in progress.notes)
    assert progress.seen[0] == "read 1" and not differing(run_dir, expected)
