"""Export of the directions of a run for steering: vectors to add to the hidden states of a model, layer by layer.

A file holds, for k directions, L layers and H hidden units (``flat``: D columns in place of L and H):

==============  ===================  =========================================================================
``directions``  (k, L, H) float32    vectors to add, of unit length over all layers together
``deviation``   (k,) float32         standard deviation of the rows' projections: ``h + c * deviation[i] *
                                     directions[i]`` moves an activation by c standard deviations along axis i
``mean``        (L, H) float32       the mean row
``layer_ids``   (L,) int64           the model's own layer numbers; not in a flat file
``readers``     (k, L, H) float32    vectors that read the score, of a run with ``--scale`` only
==============  ===================  =========================================================================

Without ``--scale`` the score of a row x on axis i is ``directions[i] . (x - mean)``. With it, directions were found on
scaled columns y = s * x. Adding v / s to x moves y along a unit vector v: ``directions`` holds v / s at unit length,
and ``deviation`` is scaled to match. The score of x along v is s * v . (x - mean): ``readers`` holds s * v.

Model, revision, hook, pooling and fingerprint of the store, as far as known, are in the metadata of a
``.safetensors`` file and in the JSON text ``about`` of an ``.npz`` file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skillaxes.errors import RunFolderError, UsageError
from skillaxes.files import atomic_write
from skillaxes.run_folder.contents import read_finished_manifest
from skillaxes.run_folder.directions import Directions, read_directions
from skillaxes.run_folder.schema import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".safetensors", ".npz")
_ABOUT = ("fingerprint", "model", "revision", "hook", "pooling", "token_range")


def export(run_dir: str | Path, file: str | Path, *, flat: bool = False, overwrite: bool = False) -> Path:
    """Write the directions of a finished run to one file.

    Parameters
    ----------
    run_dir : a finished run
    file : a path that ends in ``.safetensors`` or ``.npz``
    flat : whether columns stay side by side, for stores with unknown layers
    overwrite : whether an existing file is replaced

    Returns
    -------
    file

    Raises
    ------
    UsageError : another ending, a missing folder, or an existing file without ``overwrite``
    RunFolderError : no finished run, or one with unknown layers without ``flat``
    """
    run_dir, file = Path(run_dir), Path(file)
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file}: needs a name that ends in {' or '.join(SUFFIXES)}")
    if file.exists() and not overwrite:
        raise UsageError(f"{file}: exists already; type another name, or --overwrite to replace it")
    if not file.parent.is_dir():
        raise UsageError(f"{file}: the folder {file.parent} does not exist")
    manifest = read_finished_manifest(run_dir)
    tensors = _raw_space(read_directions(run_dir))
    if not flat:
        tensors = _by_layer(tensors, *_layers(run_dir, manifest, tensors["mean"].size))
    store = manifest.get("store") or {}
    about = {name: store[name] for name in _ABOUT if store.get(name) is not None}
    with atomic_write(file) as temp:
        _write(temp, file.suffix, tensors, about)
    return file


def _raw_space(found: Directions) -> dict[str, NDArray[Any]]:
    """Directions, deviations and mean in the space of the unscaled rows, float32."""
    deviation = np.sqrt(np.maximum(found.explained_variance.astype(np.float64), 0))
    if found.scale is None:
        tensors = {"directions": found.components, "deviation": deviation, "mean": found.mean}
    else:
        scale = found.scale.astype(np.float64)
        used = scale != 0  # a constant column has no scale and no part in any direction
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=used)
        moves = found.components * inverse
        lengths = np.linalg.norm(moves, axis=1)
        tensors = {
            "directions": moves / lengths[:, None],
            "deviation": deviation * lengths,
            "mean": found.mean * inverse,
            "readers": found.components * scale,
        }
    return {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}


def _layers(run_dir: Path, manifest: Manifest, n_columns: int) -> tuple[list[int], int]:
    """Ids and width of the layers in use.

    Raises
    ------
    RunFolderError : unknown layers
    """
    ids = (manifest.get("layers") or {}).get("ids") or []
    hidden = (manifest.get("store") or {}).get("hidden")
    if not hidden or not ids or not all(isinstance(layer, int) for layer in ids) or len(ids) * hidden != n_columns:
        raise RunFolderError(
            f"{run_dir}: the store names no layers (layer_ids, hidden), so {n_columns:,} columns cannot be split "
            "by layer; type --flat, or skillaxes ingest with --layer-ids and --hidden"
        )
    return list(ids), int(hidden)


def _by_layer(tensors: dict[str, NDArray[Any]], ids: list[int], hidden: int) -> dict[str, NDArray[Any]]:
    shaped = {
        name: value if name == "deviation" else value.reshape(*value.shape[:-1], len(ids), hidden)
        for name, value in tensors.items()
    }
    return {**shaped, "layer_ids": np.asarray(ids, np.int64)}


def _write(path: Path, suffix: str, tensors: dict[str, NDArray[Any]], about: dict[str, Any]) -> None:
    if suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.asarray(json.dumps(about)), **tensors)
        return
    from safetensors.numpy import save_file

    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    save_file(tensors, path, metadata)
