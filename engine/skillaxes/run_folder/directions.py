"""``directions.safetensors``: principal directions with variances, residuals and mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skillaxes.errors import RunFolderError
from skillaxes.files import atomic_write
from skillaxes.run_folder.schema import DIRECTIONS


@dataclass(frozen=True)
class Directions:
    """Arrays of the file, float32, for k directions and d columns in use.

    Attributes
    ----------
    components : ndarray of shape (k, d), unit rows
    mean : ndarray of shape (d,), of the rows, or of the scaled rows
    explained_variance, explained_variance_ratio, singular_values, residuals, split_half : ndarrays of shape (k,)
    scale : ndarray of shape (d,), the factor of each column; None where rows were not scaled
    """

    components: np.ndarray
    mean: np.ndarray
    explained_variance: np.ndarray
    explained_variance_ratio: np.ndarray
    singular_values: np.ndarray
    residuals: np.ndarray
    split_half: np.ndarray
    scale: np.ndarray | None = None


def write_directions(run_dir: Path, directions: Directions) -> None:
    """Write the file atomically."""
    from safetensors.numpy import save

    tensors = {
        name: np.ascontiguousarray(value, np.float32) for name, value in vars(directions).items() if value is not None
    }
    with atomic_write(run_dir / DIRECTIONS) as aside:
        aside.write_bytes(save(tensors))  # save_file makes a file that its owner alone can read


def read_directions(run_dir: Path) -> Directions:
    """The directions of a run folder.

    Raises
    ------
    RunFolderError : the file is missing or damaged
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(run_dir) / DIRECTIONS
    try:
        return Directions(**load_file(path))
    except FileNotFoundError:
        raise RunFolderError(f"{run_dir} holds no {DIRECTIONS}: run `skillaxes discover` first") from None
    except (SafetensorError, TypeError, OSError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}): run `skillaxes discover` again with --overwrite"
        ) from None
