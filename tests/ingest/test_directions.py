"""Law: directions of a run folder, of an export and of the notebook's pickle are the same directions."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from skillaxes.errors import SourceError
from skillaxes.ingest.directions import read_given_directions

COMPONENTS = np.random.default_rng(0).standard_normal((3, 12)).astype(np.float32)
MEAN = np.arange(12, dtype=np.float32)


def test_every_format(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    variance = np.ones(3, np.float32)
    save_file({"components": COMPONENTS, "mean": MEAN, "explained_variance": variance}, tmp_path / "a.safetensors")
    np.savez(
        tmp_path / "b.npz",
        directions=COMPONENTS.reshape(3, 3, 4),
        mean=MEAN.reshape(3, 4),
        about=np.asarray("{}"),
        layer_ids=np.arange(3),
    )
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"components_": COMPONENTS, "mean_": MEAN, "n": 3}))
    for name in ("a.safetensors", "b.npz", "c.pkl"):
        found = read_given_directions(tmp_path / name)
        np.testing.assert_array_equal(found.components, COMPONENTS)
        assert found.mean is not None and found.scale is None and found.source == str(tmp_path / name)
        np.testing.assert_array_equal(found.mean, MEAN)
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(COMPONENTS))
    np.save(tmp_path / "e.npy", COMPONENTS)
    torch.save(torch.from_numpy(COMPONENTS), tmp_path / "f.pt")
    for name in ("d.pkl", "e.npy", "f.pt"):
        found = read_given_directions(tmp_path / name)
        np.testing.assert_array_equal(found.components, COMPONENTS)
        assert found.mean is None


def test_one_vector_and_half_precision(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(COMPONENTS[0]).bfloat16(), tmp_path / "x.pt")
    found = read_given_directions(tmp_path / "x.pt")
    assert found.components.shape == (1, 12) and found.components.dtype == np.float32
    np.testing.assert_allclose(found.components[0], COMPONENTS[0], rtol=1e-2)


def test_scale(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", components=COMPONENTS, mean=MEAN, scale=MEAN + 1)
    found = read_given_directions(tmp_path / "x.npz")
    assert found.scale is not None
    np.testing.assert_array_equal(found.scale, MEAN + 1)


def test_what_are_no_directions(tmp_path: Path) -> None:
    def refused(message: str, **arrays: np.ndarray) -> None:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(SourceError) as caught:
            read_given_directions(tmp_path / "x.npz")
        assert message in str(caught.value) and "\n" not in str(caught.value)

    refused("needed: one array, or one named components", a=COMPONENTS, b=COMPONENTS)
    refused("holds no array", **{})
    refused("holds components int64", components=np.ones((3, 12), np.int64))
    refused("holds components float32 (0, 12)", components=COMPONENTS[:0])
    refused("holds directions of shape (1, 1, 1, 1)", components=np.ones((1, 1, 1, 1)))
    refused("direction 1 in", components=np.where(np.arange(3)[:, None] == 1, np.nan, COMPONENTS))
    refused("is all zeros", components=np.zeros((2, 4)))
    refused("holds mean float32 (12,) beside directions of 4 columns", components=np.ones((2, 4)), mean=MEAN)
    with pytest.raises(SourceError, match="there is no file"):
        read_given_directions(tmp_path / "none.npz")
