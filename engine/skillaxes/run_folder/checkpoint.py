"""Files of the folder ``checkpoint/`` of a run folder, from which an interrupted job is resumed.

=============================  =====================================================================  ==============
file                           content                                                                written by
=============================  =====================================================================  ==============
``state.pt``                   results of the complete stages                                         process 0
``part-<rank>-of-<size>.pt``   row and sums of a process in the read under way                        each process
``<name>.f32``                 numbers of every row, in global row order                              each, its rows
``progress-<rank>-of-<size>``  seconds and rows since the checkpoint, which a killed job repeats      each process
=============================  =====================================================================  ==============

State and parts are replaced atomically. The rows that belong to them are on the disk before. Both are torch files of
plain values (tensors, numbers, texts), loaded with ``weights_only``, and end with a checksum.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from skillaxes.files import atomic_write, read_at, remove, write_at
from skillaxes.run_folder.schema import CHECKPOINT

_STATE = "state.pt"
_TRAILER = struct.Struct("<4sI")  # magic, crc32 of all bytes before it
_MAGIC = b"skax"
_PROGRESS = struct.Struct("<dq")  # seconds and rows since the last checkpoint
_STEP = 1 << 20  # bytes read or written at once


class Damaged(Exception):
    """A file of the checkpoint is torn or of another kind."""


class RowTable(Protocol):
    """Numbers of every row of one process: ``width`` of them a row, float32."""

    first_row: int
    n_rows: int
    width: int

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` (global), of shape (stop - start, width), float32."""

    def write(self, start: int, rows: np.ndarray) -> None:
        """Write ``rows`` (n, width), float32, from global row ``start`` on."""


def holds_state(run_dir: Path) -> bool:
    """Whether a run folder holds a checkpoint."""
    return (run_dir / CHECKPOINT / _STATE).is_file()


class CheckpointFolder:
    """Reads and writes the files of a checkpoint, for one process.

    Parameters
    ----------
    run_dir : the run folder
    rank, size : rank of this process, and the number of processes
    """

    def __init__(self, run_dir: Path, rank: int, size: int) -> None:
        self.path = run_dir / CHECKPOINT
        self._part = f"part-{rank}-of-{size}.pt"
        self._progress = f"progress-{rank}-of-{size}"
        self._of = f"-of-{size}"
        self._progress_descriptor = -1

    def read_state(self) -> dict[str, Any] | None:
        """The results of the complete stages; None without the file.

        Raises
        ------
        Damaged : the file is torn
        """
        return self._load(_STATE)

    def read_part(self) -> dict[str, Any] | None:
        """The part of this process; None without the file.

        Raises
        ------
        Damaged : the file is torn
        """
        return self._load(self._part)

    def write_state(self, value: dict[str, Any]) -> None:
        """Replace the state atomically; it is on the disk afterwards.

        Raises
        ------
        OSError : it cannot be written
        """
        self._save(_STATE, value)

    def write_part(self, value: dict[str, Any]) -> None:
        """Replace the part of this process atomically; it is on the disk afterwards.

        Raises
        ------
        OSError : it cannot be written
        """
        self._save(self._part, value)

    def write_rows(self, name: str, table: RowTable, start: int, stop: int, n_rows: int) -> None:
        """Write rows ``start`` to ``stop`` (global) of ``table`` to a row file; they are on the disk afterwards.

        Parameters
        ----------
        name : name of the file, without its ending
        n_rows : rows of the store, which the file has room for

        Raises
        ------
        OSError : they cannot be written
        """
        self.path.mkdir(exist_ok=True)
        row_bytes = table.width * 4
        step = max(1, _STEP // row_bytes)
        descriptor = os.open(self.path / f"{name}.f32", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if os.fstat(descriptor).st_size < n_rows * row_bytes:
                os.truncate(descriptor, n_rows * row_bytes)
            for at in range(start, stop, step):
                rows = np.ascontiguousarray(table.rows(at, min(at + step, stop)), np.float32)
                write_at(descriptor, rows, at * row_bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read_rows(self, name: str, table: RowTable, start: int, stop: int) -> None:
        """Read rows ``start`` to ``stop`` (global) of ``table`` from a row file.

        Raises
        ------
        Damaged : the file is missing or ends too early
        """
        row_bytes = table.width * 4
        step = max(1, _STEP // row_bytes)
        try:
            with open(self.path / f"{name}.f32", "rb", buffering=0) as file:
                for at in range(start, stop, step):
                    rows = np.empty((min(step, stop - at), table.width), np.float32)
                    if read_at(file.fileno(), rows, at * row_bytes) < rows.nbytes:
                        raise OSError("ends too early")
                    table.write(at, rows)
        except OSError as error:
            raise Damaged(f"{name}.f32: {error}") from None

    def holds_rows(self, name: str, width: int, n_rows: int) -> bool:
        """Whether a row file has the length of ``n_rows`` rows of ``width`` numbers."""
        try:
            return (self.path / f"{name}.f32").stat().st_size == n_rows * width * 4
        except OSError:
            return False

    def write_progress(self, seconds: float, rows: int) -> None:
        """Write seconds and rows since the last checkpoint.

        The file is not synced: it outlives the process, and may be lost with the machine.

        Raises
        ------
        OSError : it cannot be written
        """
        if self._progress_descriptor < 0:
            self.path.mkdir(exist_ok=True)
            self._progress_descriptor = os.open(self.path / self._progress, os.O_WRONLY | os.O_CREAT, 0o666)
        write_at(self._progress_descriptor, _PROGRESS.pack(seconds, rows), 0)

    def read_progress(self) -> tuple[float, int]:
        """Seconds and rows of an earlier process since its last checkpoint; zeros without the file."""
        try:
            return _PROGRESS.unpack((self.path / self._progress).read_bytes())
        except (OSError, struct.error):
            return 0.0, 0

    def keep_rows(self, names: set[str]) -> None:
        """Remove the row files that are not in ``names``."""
        for path in self.path.glob("*.f32"):
            if path.stem not in names:
                remove(path)

    def drop_other_parts(self) -> None:
        """Remove the parts and progress files of another number of processes."""
        for path in (*self.path.glob("part-*"), *self.path.glob("progress-*")):
            if not path.name.removesuffix(".pt").endswith(self._of):
                remove(path)

    def remove(self) -> None:
        """Remove the folder."""
        self.close()
        remove(self.path)

    def close(self) -> None:
        """Close open files."""
        if self._progress_descriptor >= 0:
            os.close(self._progress_descriptor)
            self._progress_descriptor = -1

    def _save(self, name: str, value: dict[str, Any]) -> None:
        import torch

        self.path.mkdir(exist_ok=True)
        with atomic_write(self.path / name, sync_folder=True) as temp, temp.open("wb") as file:
            checksummed = _ChecksumFile(file)
            torch.save(value, checksummed)  # type: ignore[arg-type]  # torch only calls write and flush
            file.write(_TRAILER.pack(_MAGIC, checksummed.crc))

    def _load(self, name: str) -> dict[str, Any] | None:
        import torch

        path = self.path / name
        try:
            with path.open("rb") as file:
                crc, left = 0, path.stat().st_size - _TRAILER.size
                while left > 0 and (block := file.read(min(_STEP, left))):
                    crc, left = zlib.crc32(block, crc), left - len(block)
                if file.read() != _TRAILER.pack(_MAGIC, crc):
                    raise Damaged(f"{name} is torn")
                file.seek(0)
                value = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Damaged:
            raise
        except Exception as error:  # torch raises errors of many types for files of another kind
            raise Damaged(f"{name} cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(value, dict):
            raise Damaged(f"{name} holds no checkpoint")
        return value


class _ChecksumFile:
    """A write-only file that sums the crc32 of its bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.crc = file, 0

    def write(self, block: Any) -> int:
        self.crc = zlib.crc32(block, self.crc)
        return self._file.write(block)

    def flush(self) -> None:
        self._file.flush()
