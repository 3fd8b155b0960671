"""What ``ingest`` takes: which reader a file gets, by its name and its first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skillaxes.errors import SourceError
from skillaxes.ingest.matrix import MappedFile, Matrix, choose
from skillaxes.ingest.numpy_files import read_npy, read_npz
from skillaxes.ingest.parquet import read_parquet
from skillaxes.ingest.pickles.arrays import read_pickle
from skillaxes.ingest.safetensors_files import read_safetensors

PICKLES = (".pkl", ".pickle", ".pt", ".pth")
SUFFIXES = (*PICKLES, ".npy", ".npz", ".safetensors", ".parquet")


@dataclass(frozen=True)
class Source:
    """A file and the matrix chosen in it."""

    path: Path
    name: str  # of the matrix within the file; empty where the file is the matrix
    matrix: Matrix


def _candidates(path: Path, suffix: str) -> dict[str, Matrix]:
    if suffix == ".parquet":
        return read_parquet(path)
    if suffix in PICKLES:
        return read_pickle(path)
    mapped = MappedFile(path)
    if suffix == ".npy":
        return read_npy(mapped)
    if suffix == ".npz":
        return read_npz(mapped)
    return read_safetensors(mapped)


def candidates(path: Path | str) -> dict[str, Matrix]:
    """The arrays in a file by name (``""``: the file is the array), whether they can be ingested or not.

    Raises
    ------
    SourceError : no such file, another format, refused or damaged
    """
    place = Path(path)
    kinds = ", ".join(SUFFIXES)
    if not place.exists():
        raise SourceError(f"there is no file {path}; needed: one of {kinds}")
    if place.is_dir():
        raise SourceError(f"{path} is a folder; needed: a file, one of {kinds}; a zarr store needs no ingest")
    suffix = place.suffix.lower()
    if suffix not in SUFFIXES:
        raise SourceError(f"{path} is of an unknown kind ({suffix or 'no suffix'}); needed: one of {kinds}")
    try:
        return _candidates(place, suffix)
    except SourceError as error:
        message = str(error)
        if str(place) in message:
            raise
        raise SourceError(f"{path}: {message}") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def open_source(path: Path | str, key: str | None = None) -> Source:
    """The matrix in a file.

    Parameters
    ----------
    path : a ``.pkl``, ``.pickle``, ``.pt``, ``.pth``, ``.npy``, ``.npz``, ``.safetensors`` or ``.parquet``
    key : which of several arrays (``.npz``, ``.safetensors``, a dict), or which column of a table

    Raises
    ------
    SourceError : no such file, another format, refused, damaged, or no matrix in it
    """
    name, matrix = choose(candidates(path), key, path)
    return Source(Path(path), name, matrix)
