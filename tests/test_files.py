"""The law: a file or folder is there whole or not at all, and what a failed attempt left is gone.

Reads and writes at an offset are whole, however the system parts them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from skillaxes.files import atomic_write, read_at, remove, write_at, write_json


def test_a_file_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with atomic_write(target) as aside:
        aside.write_text("new")
        assert not target.exists() and aside.parent == tmp_path, "a rename within one file system is atomic"
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_folders(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_write(target) as aside:
            aside.mkdir()
            (aside / content).write_text(content)
        assert [path.name for path in target.iterdir()] == [content]
    with pytest.raises(ZeroDivisionError), atomic_write(target) as aside:
        aside.mkdir()
        (aside / "three").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_a_killed_attempt_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").mkdir()
    (tmp_path / ".file.partial" / "old").write_text("half")
    with atomic_write(tmp_path / "file") as aside:
        aside.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writers_of_the_same_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with atomic_write(target, shared=True) as first, atomic_write(target, shared=True, sync_folder=True) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first" and list(tmp_path.iterdir()) == [target], "the last one wins"


@pytest.mark.parametrize("values", [b"", b"abcdefgh", np.arange(50, dtype=np.float16).reshape(5, 10), np.ones((0, 3))])
def test_whole_reads_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: bytes | np.ndarray) -> None:
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:13], offset))
    monkeypatch.setattr(os, "preadv", lambda file, parts, offset: read(file, [parts[0][:7]], offset))
    wanted = values if isinstance(values, bytes) else values.tobytes()
    with (tmp_path / "file").open("wb+", buffering=0) as file:
        write_at(file.fileno(), values, 5)
        assert (tmp_path / "file").read_bytes() == (bytes(5) + wanted if wanted else b"")
        found = bytearray(len(wanted) + 3)
        assert read_at(file.fileno(), found, 5) == len(wanted), "the file ends too early"
        assert found == wanted + bytes(3)


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "Größe", "list": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"text": "Größe", "list": [1, 2.5, None]}
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text())["text"] == "Größe"


def test_remove(tmp_path: Path) -> None:
    """A link to a folder is a link: what it points to stays."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    remove(tmp_path / "link")
    remove(tmp_path / "missing")
    assert (tmp_path / "real" / "file").exists()
    remove(tmp_path / "real")
    assert not list(tmp_path.iterdir())
