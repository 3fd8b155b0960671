"""``scores.zarr``: projections and norms of every row; cosines are their quotients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.files import write_at
from skillaxes.run_folder.schema import SCORES

CHUNK_ROWS = 8192
_COLUMNS = ("projection", "norm", "centered_norm")


class ScoresWriter:
    """Writes a zarr v3 group with ``projection`` (N, k), ``norm`` (N,) and ``centered_norm`` (N,), float32.

    Chunks have 8,192 rows and are uncompressed and little-endian. Rows are written at their offset in the file of their
    chunk, so that several processes can write to one chunk.

    Parameters
    ----------
    folder : folder of the group; one process makes it with :meth:`create` before any process writes
    n_rows, n_components : N and k
    """

    def __init__(self, folder: Path, n_rows: int, n_components: int) -> None:
        self._folder, self._n_rows = folder, n_rows
        self._widths = {"projection": n_components, "norm": 0, "centered_norm": 0}

    def create(self, attributes: dict[str, Any]) -> None:
        """Make the group with ``attributes``, and its arrays."""
        import zarr

        group = zarr.create_group(self._folder, zarr_format=3, attributes=attributes)
        for name, width in self._widths.items():
            group.create_array(
                name,
                shape=(self._n_rows, width) if width else (self._n_rows,),
                chunks=(CHUNK_ROWS, width) if width else (CHUNK_ROWS,),
                dtype="float32",
                fill_value=0.0,
                compressors=None,
                dimension_names=["row", "direction"] if width else ["row"],
            )
            (self._folder / name / "c").mkdir()

    def write(self, start: int, projection: np.ndarray, norm: np.ndarray, centered_norm: np.ndarray) -> None:
        """Write rows from ``start`` on, all of one chunk; rows that are never written are zero.

        Parameters
        ----------
        start : global row
        projection, norm, centered_norm : ndarrays of shape (n, k), (n,) and (n,), any float dtype

        Raises
        ------
        OSError : they cannot be written
        """
        number, within = divmod(start, CHUNK_ROWS)
        for name, values in zip(_COLUMNS, (projection, norm, centered_norm), strict=True):
            width = self._widths[name]
            place = self._folder / name / "c" / str(number)
            if width:
                place.mkdir(exist_ok=True)
                place = place / "0"
            row_bytes = 4 * max(width, 1)
            file = os.open(place, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.ftruncate(file, CHUNK_ROWS * row_bytes)  # of full size from the first write on
                write_at(file, np.ascontiguousarray(values, "<f4"), within * row_bytes)
            finally:
                os.close(file)


def read_scores(run_dir: Path) -> dict[str, np.ndarray]:
    """The three arrays of a run folder by name, in memory, float32.

    Raises
    ------
    RunFolderError : a run folder without scores
    """
    import zarr

    from skillaxes.errors import RunFolderError

    path = Path(run_dir) / SCORES
    if not path.is_dir():
        raise RunFolderError(f"{run_dir} holds no {SCORES}: run `skillaxes discover` first")
    return {name: np.asarray(zarr.open_array(path / name, mode="r")[:]) for name in _COLUMNS}
