"""Stop a job after a certain panel, and compare its files with those of an undisturbed job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import skillaxes
from skillaxes.cluster import signals
from skillaxes.errors import StoppedEarly
from skillaxes.run_folder.schema import CHECKPOINT, DIRECTIONS, SCORES, SELECTION, TOPK


class StopAt:
    """A ``Progress`` that asks the process to stop after ``panels`` panels of the stage called ``name``."""

    def __init__(self, name: str, panels: int) -> None:
        self.name, self._left = name, panels
        self.notes: list[str] = []
        self.seen: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "rows", unit_bytes: int = 0) -> Iterator[Any]:
        self.seen.append(name)
        outer = self

        class Stage:
            def advance(self, rows: int) -> None:
                if name == outer.name:
                    outer._left -= 1
                    if outer._left == 0:
                        signals.request_stop("a test")

        yield Stage()


class Listening(StopAt):
    """A ``StopAt`` that never asks to stop."""

    def __init__(self) -> None:
        super().__init__("", 0)


def stopped(job: Any, store: Path, run_dir: Path, at: str, panels: int, **options: Any) -> dict[str, Any]:
    """Run ``job`` until it stops after ``panels`` panels of stage ``at``; returns its manifest."""
    progress = StopAt(at, panels)
    try:
        with pytest.raises(StoppedEarly) as caught:
            job(store, run_dir, progress=progress, **options)
    finally:
        signals._Flag.reason = None
    assert caught.value.exit_code == 75
    import json

    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["status"] == "stopped" and manifest["stopped"]["by"] == "a test", manifest["stopped"]
    return dict(manifest)


def written(run_dir: Path) -> dict[str, bytes]:
    """The files of a run folder by name, without the manifest, which contains times."""
    files = [run_dir / name for name in (DIRECTIONS, TOPK, SELECTION)]
    files += sorted(path for path in (run_dir / SCORES).rglob("*") if path.is_file())
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


def differing(run_dir: Path, expected: dict[str, bytes]) -> list[str]:
    """Names of the files that differ from those of an undisturbed job; asserts that the checkpoint is gone."""
    assert not (run_dir / CHECKPOINT).exists()
    found = written(run_dir)
    assert found.keys() == expected.keys()
    return [name for name in expected if found[name] != expected[name]]


def discover(store: Path, run_dir: Path, **options: Any) -> Any:
    return skillaxes.discover(store, run_dir, **options)
