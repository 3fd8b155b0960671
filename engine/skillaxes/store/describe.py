"""``inspect``: a description of a store and, with a scan, statistics of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.errors import StoreError
from skillaxes.progress import SILENT, Progress
from skillaxes.store import Store, open_store
from skillaxes.store.dtypes import not_finite, widen

_BLOCK_BYTES = 16 << 20  # read at a time, as stored
_PART_BYTES = 1 << 20  # counted at a time: its copies in float64 stay in the cache and reuse their memory
_NAMED = 10
_HASH_SEED = 0


def inspect(store: Store | Path | str, scan: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Describe a store.

    Parameters
    ----------
    store : a store or its path
    scan : read every row once, for norms, bad rows, rows of zeros, duplicates and energy by layer
    progress : where the stage ``scan`` is reported

    Returns
    -------
    dict of JSON values, unknown ones None; sizes in bytes, shares between 0 and 1; with ``scan`` the entry ``"scan"``

    Raises
    ------
    StoreError : no store, or a chunk cannot be decoded
    """
    opened = store if isinstance(store, Store) else open_store(store)
    missing = opened.missing_chunks()
    attributes = opened.attributes
    found: dict[str, Any] = {
        "path": str(opened.path),
        "shape": list(opened.shape),
        "dtype": opened.dtype,
        "rows": opened.n_rows,
        "columns": opened.n_features,
        "bytes": opened.nbytes,
        "fingerprint": _fingerprint(opened),
        "chunks": {
            "shape": list(opened.chunk_shape),
            "rows": opened.chunk_rows,
            "count": opened.n_chunks,
            "bytes": opened.chunk_rows * opened.n_features * opened.itemsize,
            "shard_rows": opened.shard_shape[0] if opened.shard_shape else 0,  # 0: every chunk is a file
            "missing": len(missing),
            "first_missing": missing[:_NAMED],
        },
        "reading": {
            "plain": opened.plain_chunks() is not None,
            "plain_reason": opened.plain_reason,
            "pipeline": opened.pipeline,
            "pipeline_reason": opened.pipeline_reason,
        },
        "attributes": {
            "layer_ids": None if attributes.layer_ids is None else list(attributes.layer_ids),
            "hidden": attributes.hidden,
            "model": attributes.model,
            "revision": attributes.revision,
            "hook": attributes.hook,
            "pooling": attributes.pooling,
            "token_range": list(attributes.token_range)
            if isinstance(attributes.token_range, tuple)
            else attributes.token_range,
            "first_trace_id": opened.trace_ids([0])[0],
        },
    }
    if scan:
        found["scan"] = _scan(opened, missing, progress)
    return found


def _fingerprint(store: Store) -> str | None:
    try:
        return store.fingerprint()
    except StoreError:
        return None  # a sampled row lies in a chunk that is missing or damaged, which `missing` or the scan tells


def _stretches(store: Store, missing: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of whole chunks, several at a time where they are small, missing ones left out."""
    chunk_bytes = store.chunk_rows * store.n_features * store.itemsize
    together = max(1, _BLOCK_BYTES // chunk_bytes)
    lost = set(missing)
    first = 0
    while first < store.n_chunks:
        if first in lost:
            first += 1
            continue
        end = first + 1
        while end < store.n_chunks and end - first < together and end not in lost:
            end += 1
        yield first * store.chunk_rows, min(end * store.chunk_rows, store.n_rows)
        first = end


class _Moments:
    """Sums over rows, relative to the mean of the first ones, so that a large mean costs no digits."""

    def __init__(self, n_features: int) -> None:
        self.n_rows = 0
        self.shift = np.zeros(n_features)
        self._sums = np.zeros(n_features)
        self._squares = np.zeros(n_features)

    def add(self, rows: np.ndarray) -> None:
        """``rows`` : float64 (n, D), all finite."""
        if not len(rows):
            return
        if not self.n_rows:
            self.shift = rows.mean(axis=0)
        centred = rows - self.shift
        self._sums += centred.sum(axis=0)
        self._squares += np.einsum("ij,ij->j", centred, centred)
        self.n_rows += len(rows)

    @property
    def mean(self) -> np.ndarray:
        return self.shift + self._sums / max(1, self.n_rows)

    @property
    def variances(self) -> np.ndarray:
        """Of every column, divided by the number of rows."""
        n = max(1, self.n_rows)
        return np.maximum(self._squares / n - (self._sums / n) ** 2, 0.0)


def _parts(values: np.ndarray, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the first row, some rows)."""
    rows = max(1, _PART_BYTES // max(1, values[0].nbytes))
    for start in range(0, len(values), rows):
        yield first + start, values[start : start + rows]


def _hashes(values: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """A 64-bit hash of the bits of every row: their sum, times odd numbers."""
    words = values.view(f"u{values.dtype.itemsize}").astype(np.uint64)
    words *= odd
    return np.asarray(words.sum(axis=1))


def _scan(store: Store, missing: list[int], progress: Progress) -> dict[str, Any]:
    moments = _Moments(store.n_features)
    odd = np.random.default_rng(_HASH_SEED).integers(0, 2**63, store.n_features, dtype=np.uint64) * 2 + 1
    norms = np.full(store.n_rows, np.nan)
    hashes = np.zeros(store.n_rows, dtype=np.uint64)
    nan = np.zeros(store.n_rows, dtype=bool)
    infinite = np.zeros(store.n_rows, dtype=bool)
    with progress.stage("scan", store.n_rows, unit_bytes=store.n_features * store.itemsize) as stage:
        for start, stop in _stretches(store, missing):
            for at, values in _parts(store.read_rows(start, stop), start):
                rows = slice(at, at + len(values))
                wide = widen(values, store.dtype).astype(np.float64)
                suspect = not_finite(values, store.dtype).any(axis=1)
                if suspect.any():
                    nan[rows], infinite[rows] = np.isnan(wide).any(axis=1), np.isinf(wide).any(axis=1)
                    wide = wide[~suspect]
                norms[rows][~suspect] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
                hashes[rows] = _hashes(values, odd)
                moments.add(wide)
            stage.advance(stop - start)
    read = ~np.isnan(norms)
    zero = norms == 0
    lengths = norms[read & ~zero]
    duplicates = _duplicates(hashes, read & ~zero)
    return {
        "rows_read": int(read.sum() + (nan | infinite).sum()),
        "rows_in_missing_chunks": int((~read & ~nan & ~infinite).sum()),
        "nan_rows": _named(nan),
        "infinite_rows": _named(infinite),
        "zero_rows": _named(zero),
        "duplicate_rows": {"count": len(duplicates), "first": [list(pair) for pair in duplicates[:_NAMED]]},
        "norm": {
            "smallest": float(lengths.min()) if lengths.size else None,
            "median": float(np.median(lengths)) if lengths.size else None,
            "mean": float(lengths.mean()) if lengths.size else None,
            "largest": float(lengths.max()) if lengths.size else None,
            "of_the_mean_row": float(np.linalg.norm(moments.mean)) if moments.n_rows else None,
        },
        "largest_value_of_the_mean_row": float(np.abs(moments.mean).max()) if moments.n_rows else None,
        **_by_layer(store, moments),
    }


def _named(mask: np.ndarray) -> dict[str, Any]:
    rows = np.flatnonzero(mask)
    return {"count": int(rows.size), "first": rows[:_NAMED].tolist()}


def _duplicates(hashes: np.ndarray, counted: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, earlier row with the same bits), in row order."""
    rows = np.flatnonzero(counted)
    _, first, inverse = np.unique(hashes[rows], return_index=True, return_inverse=True)
    earlier = rows[first[inverse]]
    return [(int(row), int(same)) for row, same in zip(rows, earlier, strict=True) if row != same]


def _by_layer(store: Store, moments: _Moments) -> dict[str, Any]:
    """Shares of the variance and of the sum of squares that each layer holds; None where the layers are unknown."""
    hidden = store.attributes.hidden
    if hidden is None or not moments.n_rows:
        return {"variance_by_layer": None, "energy_by_layer": None}
    n_layers = store.n_features // hidden
    # Without ids the layers are known by their place only, and the place must not look like an id.
    names = [str(layer) for layer in store.attributes.layer_ids or ()] or [
        f"place {place}" for place in range(n_layers)
    ]

    def shares(columns: np.ndarray) -> dict[str, float]:
        sums = columns.reshape(n_layers, hidden).sum(axis=1)
        total = sums.sum()
        return {name: float(part / total) if total else 0.0 for name, part in zip(names, sums, strict=True)}

    return {
        "variance_by_layer": shares(moments.variances),
        "energy_by_layer": shares(moments.variances + moments.mean**2),
    }
