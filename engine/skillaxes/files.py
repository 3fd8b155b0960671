"""Atomic replacement of files, and whole reads and writes at an offset."""

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
    """A temporary path for a file or a folder, which replaces ``path`` when the block ends without an exception.

    A file is on the disk before it replaces ``path``. If the block raises, ``path`` does not change.

    Parameters
    ----------
    shared : whether several processes may write ``path`` at once, each at a temporary path of its own
    sync_folder : whether the new name is on the disk too afterwards

    Raises
    ------
    OSError : the file cannot be replaced
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
    """The temporary path of :func:`atomic_write` for ``path``, without ``shared``."""
    return path.with_name(f".{path.name}.partial")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as JSON, atomically."""
    with atomic_write(path) as temp:
        temp.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_at(descriptor: int, values: Any, offset: int) -> int:
    """Write all bytes of ``values``, a contiguous array or bytes, from ``offset`` on, in as many calls as needed.

    Returns
    -------
    the offset of the next byte

    Raises
    ------
    OSError : they cannot be written, e.g. to a full disk
    """
    view = _bytes_of(values)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    return offset


def read_at(descriptor: int, values: Any, offset: int) -> int:
    """Fill ``values``, a contiguous array or bytearray, from ``offset`` on, in as many calls as needed.

    Returns
    -------
    number of bytes read, fewer than ``values`` has if the file ends too early

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
    """The default folder for projections on disk: $SLURM_TMPDIR, or the temporary folder of the system ($TMPDIR)."""
    return Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir())


def _bytes_of(values: Any) -> memoryview:
    """The memory of ``values`` as bytes; an empty array has no valid cast."""
    view = memoryview(values)
    return view.cast("B") if view.nbytes else memoryview(b"")
