"""Matrices to test with, the stores that hold them, and the exact answers in float64.

Every answer here is made from the numbers as the store holds them (after rounding to its dtype), by numpy's dense
eigensolver, with no code of the package.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHARED = Path(os.environ.get("SKILLAXES_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
REAL = SHARED / "smollm2-reasoning" / "activations.npy"
SAMPLE_STORE = Path(__file__).resolve().parents[2] / "bench" / "sample" / "activations.zarr"
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def power_law(
    n: int, d: int, *, exponent: float = 1.0, mean: float = 5.0, seed: int = 0, leading: Sequence[float] = ()
) -> np.ndarray:
    """Rows of shape (n, d), float64, with standard deviations (i + 1) ** -exponent about a mean of length ``mean``.

    ``leading`` replaces the first standard deviations.
    """
    rng = np.random.default_rng([seed, n, d])
    r = min(n, d)
    deviations = (1.0 + np.arange(r)) ** -exponent
    deviations[: len(leading)] = leading
    basis = np.linalg.qr(rng.standard_normal((d, r)))[0]
    rows = (rng.standard_normal((n, r)) * deviations) @ basis.T
    center = rng.standard_normal(d)
    return rows + center * (mean / np.linalg.norm(center))


def rounded(rows: np.ndarray, dtype: str) -> np.ndarray:
    """``rows`` as a store of ``dtype`` holds them, in float64."""
    return torch.from_numpy(np.ascontiguousarray(rows, np.float64)).to(TORCH[dtype]).double().numpy()


def write_store(
    path: Path, rows: np.ndarray, dtype: str = "float32", *, compressed: bool = False, **options: Any
) -> Path:
    """A store of ``rows`` (n, d), by the package's writer, or compressed by zarr's own."""
    from skillaxes import create_store

    if compressed:
        return _compressed_store(path, rows, dtype, **options)
    values = torch.from_numpy(np.ascontiguousarray(rows, np.float64)).to(TORCH[dtype])
    ids = options.pop("ids", None)
    n, d = rows.shape
    with create_store(path, dtype=dtype, n_rows=n, n_features=d, overwrite=True, **options) as writer:
        writer.append(values, ids)
    return path


def _compressed_store(path: Path, rows: np.ndarray, dtype: str, *, chunk_rows: int = 64) -> Path:
    import zarr
    from zarr.codecs import ZstdCodec

    codec, chunks = ZstdCodec(level=1, checksum=True), (chunk_rows, rows.shape[1])
    array = zarr.create_array(path, shape=rows.shape, chunks=chunks, dtype=dtype, compressors=[codec], overwrite=True)
    array[...] = rows.astype(dtype)
    return path


@dataclass(frozen=True)
class Exact:
    """Principal directions of ``rows`` (n, d), float64: covariance with n - 1, sign by the entry of largest magnitude.

    good : rows that count for the mean and the covariance; None for all
    """

    rows: np.ndarray
    good: np.ndarray | None = None

    @cached_property
    def counted(self) -> np.ndarray:
        return self.rows if self.good is None else self.rows[self.good]

    @cached_property
    def mean(self) -> np.ndarray:
        return self.counted.mean(axis=0)

    @cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        centered = self.counted - self.mean
        degrees = len(centered) - 1
        if centered.shape[1] <= len(centered):
            values, vectors = np.linalg.eigh(centered.T @ centered)
            return values[::-1] / degrees, vectors[:, ::-1].T
        values, left = np.linalg.eigh(centered @ centered.T)
        values, left = values[::-1], left[:, ::-1]
        keep = values > 1e-13 * values[0]
        vectors = centered.T @ left[:, keep]
        return values / degrees, (vectors / np.linalg.norm(vectors, axis=0)).T

    @property
    def values(self) -> np.ndarray:
        """All eigenvalues, descending."""
        return self._eigen[0]

    @cached_property
    def components(self) -> np.ndarray:
        """Of shape (rank, d)."""
        vectors = self._eigen[1]
        largest = np.abs(vectors).argmax(axis=1)
        return vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]

    @cached_property
    def total_variance(self) -> float:
        return float(((self.counted - self.mean) ** 2).sum() / (len(self.counted) - 1))

    @cached_property
    def norms(self) -> np.ndarray:
        return np.linalg.norm(self.rows, axis=1)

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The first row of each kind, and for every row which of them it equals."""
        known: dict[bytes, int] = {}
        inverse = [known.setdefault((row + 0.0).tobytes(), len(known)) for row in self.rows]  # -0.0 is 0.0
        return np.unique(inverse, return_index=True)[1], np.array(inverse)

    def scores(self, directions: np.ndarray, rank_by: str = "raw-cosine", mean: np.ndarray | None = None) -> np.ndarray:
        """Of every row against unit ``directions`` (k, d), of shape (n, k); rows that have no score hold NaN.

        Equal rows get equal scores.
        """
        mean = self.mean if mean is None else mean
        first, inverse = self._distinct
        rows = self.rows[first]
        offset = 0.0 if rank_by == "raw-cosine" else mean
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (rows - offset) @ directions.T
            if rank_by != "projection":
                found = found / np.linalg.norm(rows - offset, axis=1)[:, None]
        found[~rows.any(axis=1)] = np.nan
        found[~np.isfinite(rows).all(axis=1)] = np.nan
        return found[inverse]


def extremes(scores: np.ndarray, top: int, side: str) -> list[int]:
    """The ``top`` rows of one side by ``scores`` (n,), most extreme first, ties to the lower row, NaN never."""
    rows = np.flatnonzero(~np.isnan(scores))
    signed = scores[rows] if side == "positive" else -scores[rows]
    return rows[np.lexsort((rows, -signed))][:top].tolist()


def listed(topk: Any, direction: int, side: str) -> list[int]:
    """The rows that ``topk.parquet`` lists for one side of a direction, by position."""
    table = topk.to_pydict()
    return [
        row
        for row, at, end in zip(table["row"], table["direction"], table["side"], strict=True)
        if at == direction and end == side
    ]


def wrong_lists(
    found: Any, exact: Exact, *, rank_by: str = "raw-cosine", k: int = 10, top: int = 10, certified_only: bool = False
) -> list[tuple[int, str]]:
    """The ends of directions whose set of rows is not the one that float64 gives.

    certified_only : only a row that is called certified and is not among float64's makes an end wrong
    """
    scores = exact.scores(exact.components[:k], rank_by)
    table = found.topk.to_pydict()
    certified = {
        (direction, side, row)
        for direction, side, row, sure in zip(
            table["direction"], table["side"], table["row"], table["certified"], strict=True
        )
        if sure
    }
    wrong = []
    for direction in range(min(k, scores.shape[1])):
        for side in ("positive", "negative"):
            mine = set(listed(found.topk, direction, side))
            true = set(extremes(scores[:, direction], top, side))
            lost = mine - true if certified_only else mine ^ true
            if certified_only:
                lost = {row for row in lost if (direction, side, row) in certified}
            if lost:
                wrong.append((direction, side))
    return wrong


def said(found: Any, kind: str) -> dict[str, Any] | None:
    """The announcement of that kind, if there is one."""
    return next((one for one in found.manifest["announcements"] if one["kind"] == kind), None)


def bounds(found: Any) -> np.ndarray:
    """The angle bounds of the manifest, in radians, of shape (k,)."""
    return np.array([one["angle_bound"] for one in found.manifest["directions"]])


def direction_errors(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """1 - |cos| between matching rows of two (k, d) arrays, by the sine, which keeps its digits near zero."""
    found = found.astype(np.float64)
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = (found * exact).sum(axis=1)
    sines = np.linalg.norm(found - cosines[:, None] * exact, axis=1)
    return 1 - np.sqrt(np.maximum(1 - sines**2, 0)) * (np.abs(cosines) > 0.5)


def angles(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Angles in radians between matching rows of two (k, d) arrays."""
    found = found.astype(np.float64)
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = (found * exact).sum(axis=1)
    sines = np.linalg.norm(found - cosines[:, None] * exact, axis=1)
    return np.arctan2(sines, np.abs(cosines))
