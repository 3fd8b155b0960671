"""Files that appear whole or not at all, and whole reads and writes at an offset."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path, *, shared: bool = False, sync_folder: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write a file or a folder to, which replaces ``path`` when the block ends well.

    A file is on the disk before it replaces ``path``. If the block raises, ``path`` stays as it was.

    Parameters
    ----------
    shared : several processes may write ``path`` at once, so each writes to a path of its own; the last one wins
    sync_folder : the new name is on the disk too when this returns
    """
    temp = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial") if shared else temp_path(path)
    remove(temp)
    try:
        yield temp
        if temp.is_file():
            with open(temp, "rb+") as file:
                os.fsync(file.fileno())
        if path.is_dir():
            remove(path)
        os.replace(temp, path)
    finally:
        remove(temp)
    if sync_folder:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def temp_path(path: Path) -> Path:
    """Where :func:`atomic_write` has the file or folder that is to take the place of ``path``."""
    return path.with_name(f".{path.name}.partial")


def write_json(path: Path, value: Any) -> None:
    """Put ``value`` at ``path`` as JSON, atomically."""
    with atomic_write(path) as temp:
        temp.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there. Of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_at(descriptor: int, values: Any, offset: int) -> int:
    """Write all bytes of ``values``, a contiguous array or bytes, from ``offset`` on.

    The system may take them in parts.

    Returns
    -------
    the offset behind them

    Raises
    ------
    OSError : they cannot be written, e.g. because the disk is full
    """
    view = _bytes_of(values)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    return offset


def read_at(descriptor: int, values: Any, offset: int) -> int:
    """Fill ``values``, a contiguous array or bytearray, from ``offset`` on. The system may give them in parts.

    Returns
    -------
    bytes that were read: fewer than ``values`` has only where the file ends too early

    Raises
    ------
    OSError : they cannot be read
    """
    view, done = _bytes_of(values), 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def default_scratch() -> Path:
    """The folder for what memory does not hold: $SLURM_TMPDIR, or the system's temporary folder ($TMPDIR)."""
    return Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir())


def _bytes_of(values: Any) -> memoryview:
    view = memoryview(values)
    return view.cast("B") if view.nbytes else memoryview(b"")
