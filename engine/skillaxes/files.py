"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def temp_path(path: Path) -> Path:
    """Where :func:`replacing` has what is to take the place of ``path``."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write a file or a folder to; it takes the place of ``path`` when the block ends
    well.
    """
    aside = temp_path(path)
    remove(aside)
    try:
        yield aside
        if aside.is_file():
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
        if path.is_dir():
            remove(path)
        os.replace(aside, path)
    finally:
        remove(aside)


def write_json(path: Path, value: Any) -> None:
    """Put ``value`` at ``path`` as JSON, atomically."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def remove(path: Path) -> None:
    """Take away a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
