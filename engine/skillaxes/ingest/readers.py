"""The file formats that ``ingest`` and ``apply`` read, and the choice of a reader by a file's suffix.

Importing this module loads no reader: the command line's help lists the formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from skillaxes.errors import SourceError

if TYPE_CHECKING:
    from skillaxes.ingest.matrix import Matrix


@dataclass(frozen=True)
class Reader:
    """A file format.

    suffixes : of its files, the usual one first
    content : where such a file comes from or which part of it is read, in words
    arrays : "module:function" of ``(path) -> dict[str, Matrix]``: the arrays by name, ``""`` if the file is the array;
        it raises SourceError for a file that is refused or damaged
    trace_ids : "module:function" of ``(path, column) -> list of ids or None``, for files that carry ids
    """

    suffixes: tuple[str, ...]
    content: str
    arrays: str
    trace_ids: str | None = None

    def read_arrays(self, path: Path) -> dict[str, Matrix]:
        return resolve_name(self.arrays)(path)

    def read_trace_ids(self, path: Path, column: str | None) -> list[str | None] | None:
        return None if self.trace_ids is None else resolve_name(self.trace_ids)(path, column)


READERS = (
    Reader((".pkl", ".pickle"), "pickle.dump", "skillaxes.ingest.pickles.arrays:read_pickle"),
    Reader((".pt", ".pth"), "torch.save", "skillaxes.ingest.pickles.arrays:read_pickle"),
    Reader((".npy",), "numpy.save", "skillaxes.ingest.numpy_files:read_npy"),
    Reader((".npz",), "numpy.savez", "skillaxes.ingest.numpy_files:read_npz"),
    Reader((".safetensors",), "tensors by name", "skillaxes.ingest.safetensors_files:read_safetensors"),
    Reader((".parquet",), "list columns", "skillaxes.ingest.parquet:read_parquet", "skillaxes.ingest.parquet:read_ids"),
)


@dataclass(frozen=True)
class Source:
    """A file, its reader, and the matrix picked in it."""

    path: Path
    reader: Reader
    name: str  # of the matrix within the file; empty if the file is the matrix
    matrix: Matrix


def open_arrays(path: Path | str) -> dict[str, Matrix]:
    """The arrays in a file by name (``""``: the file is the array), whether they can be ingested or not.

    Raises
    ------
    SourceError : no such file, another format, refused or damaged
    """
    return _open(path)[1]


def open_source(path: Path | str, key: str | None = None) -> Source:
    """The matrix in a file.

    Parameters
    ----------
    path : a file of one of the formats of READERS
    key : which of several arrays (``.npz``, ``.safetensors``, a dict), or which column of a table

    Raises
    ------
    SourceError : no such file, another format, refused, damaged, or no matrix in it
    """
    from skillaxes.ingest.matrix import pick_array

    reader, arrays = _open(path)
    name, matrix = pick_array(arrays, key, path)
    return Source(Path(path), reader, name, matrix)


def _open(path: Path | str) -> tuple[Reader, dict[str, Matrix]]:
    place = Path(path)
    kinds = ", ".join(suffix for reader in READERS for suffix in reader.suffixes)
    if not place.exists():
        raise SourceError(f"there is no file {path}; needed: one of {kinds}")
    if place.is_dir():
        raise SourceError(f"{path} is a folder; needed: a file, one of {kinds}; a zarr store needs no ingest")
    suffix = place.suffix.lower()
    reader = next((reader for reader in READERS if suffix in reader.suffixes), None)
    if reader is None:
        raise SourceError(f"{path} is of an unknown kind ({suffix or 'no suffix'}); needed: one of {kinds}")
    try:
        return reader, reader.read_arrays(place)
    except SourceError as error:
        message = str(error)
        if str(place) in message:
            raise
        raise SourceError(f"{path}: {message}") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
