"""Scaling costs no digits: a mean ten thousand times the spread of its column leaves the angle bound true."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import skillaxes
from skillaxes.store import create_store

RATIO = 1e4  # |mean| over the spread of every column


def test_far_means_are_taken_off_before_the_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(60, 60)))
    spread = (rng.normal(size=(2000, 60)) * np.arange(1, 61) ** -0.6) @ turn.T
    matrix = (spread / spread.std(axis=0) + RATIO * np.sign(rng.normal(size=60))).astype(np.float32)
    with create_store(tmp_path / "far.zarr", n_features=60, dtype="float32") as writer:
        writer.append(matrix)
    exact = matrix.astype(np.float64)
    exact = (exact - exact.mean(axis=0)) / exact.std(axis=0, ddof=1)
    wanted = np.linalg.eigh(np.cov(exact.T)).eigenvectors[:, ::-1][:, :10].T
    found = skillaxes.discover(tmp_path / "far.zarr", scale="column-std", solver="krylov")
    components = found.directions.components.astype(np.float64)
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    angles = np.linalg.norm(components - (components * wanted).sum(axis=1, keepdims=True) * wanted, axis=1)
    assert angles.max() < 1e-5  # 4e-4 where x * scale is rounded first
