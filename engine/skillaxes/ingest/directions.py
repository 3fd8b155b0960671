"""Given directions for ``apply``, from any file that ``ingest`` reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skillaxes.errors import SourceError
from skillaxes.ingest.matrix import Matrix, described
from skillaxes.ingest.readers import open_arrays
from skillaxes.store.dtypes import DTYPES, widen

# Names of directions in a run folder, in an export, and in scikit-learn.
_NAMES = ("components", "directions", "components_")
_MEANS = ("mean", "mean_")


@dataclass(frozen=True)
class GivenDirections:
    """Directions to rank rows against.

    components : array of shape (k, d), float32 or float64, any length
    mean : array of shape (d,) from the same file, or None
    scale : array of shape (d,), the factor of each column before anything else, or None
    source : the file, for messages
    """

    components: np.ndarray
    mean: np.ndarray | None
    scale: np.ndarray | None
    source: str


def read_given_directions(path: Path | str) -> GivenDirections:
    """The directions in a file: its ``components`` (or ``directions``), ``mean`` and ``scale``, or its only array.

    A single vector is one direction; (k, layers, hidden) is flattened to (k, layers * hidden). Pickles are read without
    running anything.

    Raises
    ------
    SourceError : no such file, another format, refused, damaged, not directions, or directions with NaN or zeros only
    """
    found = open_arrays(path)
    name = next((name for name in _NAMES if name in found), next(iter(found), None) if len(found) == 1 else None)
    if name is None:
        held = ", ".join(described(*entry) for entry in found.items()) or "no array"
        raise SourceError(f"{path} holds {held}; needed: one array, or one named components")
    raw = _load(found[name], name, path)
    if raw.ndim not in (1, 2, 3) or raw.size == 0:
        raise SourceError(f"{path} holds directions of shape {raw.shape}; needed: (k, columns) or (k, layers, hidden)")
    components = raw[None] if raw.ndim == 1 else raw.reshape(len(raw), -1)
    _check_lengths(components, path)
    scale = _beside(found, ("scale",), components.shape[1], path)
    return GivenDirections(components, _beside(found, _MEANS, components.shape[1], path), scale, str(path))


def _load(matrix: Matrix, name: str, path: Path | str) -> np.ndarray:
    if matrix.dtype not in DTYPES or not matrix.shape or 0 in matrix.shape:
        raise SourceError(f"{path} holds {described(name, matrix)}; needed: directions of {', '.join(DTYPES)}")
    blocks = [widen(block, matrix.dtype) for block in matrix.blocks(matrix.shape[0])]
    return np.concatenate(blocks).reshape(matrix.shape)


def _check_lengths(components: np.ndarray, path: Path | str) -> None:
    bad = np.flatnonzero(~np.isfinite(components).all(axis=1))
    if bad.size:
        raise SourceError(f"direction {bad[0]} in {path} holds NaN or infinity; needed: numbers")
    empty = np.flatnonzero(~components.any(axis=1))
    if empty.size:
        raise SourceError(f"direction {empty[0]} in {path} is all zeros; needed: a direction")


def _beside(found: Mapping[str, Matrix], names: tuple[str, ...], columns: int, path: Path | str) -> np.ndarray | None:
    name = next((name for name in names if name in found), None)
    if name is None:
        return None
    matrix = found[name]
    if math.prod(matrix.shape) != columns:
        raise SourceError(f"{path} holds {described(name, matrix)} beside directions of {columns} columns")
    return _load(matrix, name, path).reshape(columns)
