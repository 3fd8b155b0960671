"""``scores.zarr``: projection and norms of every row, from which every cosine follows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.run_folder.schema import SCORES

CHUNK_ROWS = 8192
_COLUMNS = ("projection", "norm", "centered_norm")


class ScoresWriter:
    """A zarr v3 group with ``projection`` (N, k), ``norm`` (N,) and ``centered_norm`` (N,), float32, in chunks of
    8,192 rows.

    The chunks are written as the plain files that they are: uncompressed, little-endian; several processes write their
    own rows, into the same chunk where it belongs to two of them.

    Parameters
    ----------
    folder : where the group goes; one process makes it with :meth:`create` before any writes
    n_rows, n_components : N and k
    """

    def __init__(self, folder: Path, n_rows: int, n_components: int) -> None:
        self._folder, self._n_rows = folder, n_rows
        self._widths = {"projection": n_components, "norm": 0, "centered_norm": 0}

    def create(self, attributes: dict[str, Any]) -> None:
        """Make the group, with some attributes, and its arrays."""
        folder, n_rows = self._folder, self._n_rows
        folder.mkdir(parents=True)
        _write(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
        for name, width in self._widths.items():
            (folder / name / "c").mkdir(parents=True)
            _write(folder / name / "zarr.json", _array(n_rows, width))

    def write(self, start: int, projection: np.ndarray, norm: np.ndarray, centered_norm: np.ndarray) -> None:
        """Rows from ``start`` on, all of one chunk; rows that nobody writes stay zero."""
        number, within = divmod(start, CHUNK_ROWS)
        for name, values in zip(_COLUMNS, (projection, norm, centered_norm), strict=True):
            width = self._widths[name]
            place = self._folder / name / "c" / str(number)
            if width:
                place.mkdir(exist_ok=True)
                place = place / "0"
            row_bytes = 4 * max(width, 1)
            view = memoryview(np.ascontiguousarray(values, "<f4").tobytes())
            offset = within * row_bytes
            file = os.open(place, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.ftruncate(file, CHUNK_ROWS * row_bytes)  # whole from the first moment, whoever comes first
                while view:
                    written = os.pwrite(file, view, offset)
                    view, offset = view[written:], offset + written
            finally:
                os.close(file)


def read_scores(run_dir: Path) -> dict[str, np.ndarray]:
    """All three arrays, in memory.

    Raises
    ------
    RunFolderError : the run folder holds no scores
    """
    import zarr

    from skillaxes.errors import RunFolderError

    path = Path(run_dir) / SCORES
    if not path.is_dir():
        raise RunFolderError(f"{run_dir} holds no {SCORES}: run `skillaxes discover` first")
    return {name: np.asarray(zarr.open_array(path / name, mode="r")[:]) for name in _COLUMNS}


def _array(n_rows: int, width: int) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n_rows, width] if width else [n_rows],
        "data_type": "float32",
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [CHUNK_ROWS, width] if width else [CHUNK_ROWS]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        "dimension_names": ["row", "direction"] if width else ["row"],
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
