"""Law: what is exported moves a raw activation by standard deviations of the rows' scores, in every kind of run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import skillaxes
from skillaxes.errors import RunFolderError, UsageError
from skillaxes.export import export
from skillaxes.run_folder.directions import read_directions


def run(store: Path, run_dir: Path, **options: Any) -> Path:
    skillaxes.discover(store, run_dir, components=3, top=5, **options)
    return run_dir


def scores(run_dir: Path) -> np.ndarray:
    import zarr

    group: Any = zarr.open_group(str(run_dir / "scores.zarr"), mode="r")
    return np.asarray(group["projection"][:], np.float64)


def test_directions_by_layer(store: Path, small_matrix: Callable[..., np.ndarray], tmp_path: Path) -> None:
    run_dir = run(store, tmp_path / "run")
    tensors = load_file(export(run_dir, tmp_path / "axes.safetensors"))
    assert {name: value.shape for name, value in tensors.items()} == {
        "directions": (3, 3, 8), "deviation": (3,), "mean": (3, 8), "layer_ids": (3,),
    }  # fmt: skip
    assert tensors["layer_ids"].tolist() == [3, 7, 11]
    np.testing.assert_array_equal(tensors["directions"].reshape(3, 24), read_directions(run_dir).components)
    found = (small_matrix() - tensors["mean"].reshape(24)) @ tensors["directions"].reshape(3, 24).T
    np.testing.assert_allclose(found, scores(run_dir), atol=1e-3)
    np.testing.assert_allclose(tensors["deviation"], found.std(axis=0, ddof=1), rtol=1e-3)


@pytest.mark.parametrize("scale", ["layer-rms", "column-std"])
def test_a_scaled_run_comes_back_to_the_raw_space(
    store: Path, small_matrix: Callable[..., np.ndarray], tmp_path: Path, scale: str
) -> None:
    run_dir = run(store, tmp_path / "run", scale=scale)
    tensors = load_file(export(run_dir, tmp_path / "axes.safetensors"))
    directions, readers, mean = (tensors[name].reshape(-1, 24) for name in ("directions", "readers", "mean"))
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-5)
    rows = small_matrix()
    before = (rows - mean) @ readers.T
    np.testing.assert_allclose(before, scores(run_dir), atol=1e-3)
    for axis in range(3):
        moved = rows + 2 * tensors["deviation"][axis] * directions[axis]
        change = (moved - mean) @ readers.T - before
        deviations = change / before.std(axis=0, ddof=1)
        expected = np.zeros(3)
        expected[axis] = 2
        np.testing.assert_allclose(deviations.mean(axis=0), expected, atol=5e-3)


def test_a_run_on_some_layers(store: Path, tmp_path: Path) -> None:
    tensors = load_file(export(run(store, tmp_path / "run", layers=(11, 3)), tmp_path / "axes.safetensors"))
    assert tensors["directions"].shape == (3, 2, 8)
    assert tensors["layer_ids"].tolist() == [3, 11]


def test_a_store_without_layers_is_refused_unless_flat(
    make_store: Callable[..., Path], small_matrix: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    run_dir = run(make_store(small_matrix()), tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"names no layers .* 24 columns .*--flat, .*--layer-ids"):
        export(run_dir, tmp_path / "axes.npz")
    assert not (tmp_path / "axes.npz").exists()
    with np.load(export(run_dir, tmp_path / "axes.npz", flat=True)) as found:
        assert found["directions"].shape == (3, 24) and "layer_ids" not in found


def test_a_store_with_a_width_but_no_ids_is_refused(
    make_store: Callable[..., Path], small_matrix: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    run_dir = run(make_store(small_matrix(), hidden=8), tmp_path / "run")
    with pytest.raises(RunFolderError, match="layer_ids"):
        export(run_dir, tmp_path / "axes.npz")


def test_both_formats_hold_the_same_and_say_where_it_comes_from(store: Path, tmp_path: Path) -> None:
    run_dir = run(store, tmp_path / "run")
    tensors = load_file(export(run_dir, tmp_path / "a.safetensors"))
    with np.load(export(run_dir, tmp_path / "a.npz")) as arrays:
        for name, value in tensors.items():
            np.testing.assert_array_equal(arrays[name], value)
        about = json.loads(str(arrays["about"]))
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == about
    assert about["model"] == "tiny" and "hook" not in about


def test_names_and_existing_files(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.safetensors or \.npz"):
        export(finished, tmp_path / "axes.csv")
    with pytest.raises(UsageError, match="does not exist"):
        export(finished, tmp_path / "no" / "axes.npz")
    export(finished, tmp_path / "axes.npz")
    with pytest.raises(UsageError, match="--overwrite"):
        export(finished, tmp_path / "axes.npz")
    export(finished, tmp_path / "axes.npz", overwrite=True)


def test_an_unfinished_run(run_folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((run_folder / "manifest.json").read_text())
    (run_folder / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    with pytest.raises(RunFolderError, match=r"not finished \(status: running\)"):
        export(run_folder, tmp_path / "axes.npz")
