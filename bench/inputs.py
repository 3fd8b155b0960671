"""The input files of the peers, written chunk by chunk from a store."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from bench.panels import Rows


def write_npy(store: Path, path: Path, dtype: str | None = None) -> None:
    """Write the store's rows to a .npy file, in the store's dtype or another one.

    Raises
    ------
    ValueError : bfloat16, which numpy does not have
    """
    import torch

    rows = Rows(store)
    if dtype is None and rows.dtype == "bfloat16":
        raise ValueError("a bfloat16 store has no .npy form: the peers need float16 or float32")
    kind = dtype or rows.dtype
    array = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(rows.n_rows, rows.n_features))
    for start, panel in rows.panels(getattr(torch, kind)):
        array[start : start + len(panel)] = panel.numpy()
    array.flush()


def write_pickle(store: Path, path: Path) -> None:
    """Write the notebook's gradmat.pkl: the whole matrix in float32, pickled.

    It is a numpy array and no torch tensor: it loads with one copy instead of three, which favours the notebook. The
    rows lie in a mapped file while they are pickled, and protocol 5 writes them without a copy.
    """
    raw = path.with_suffix(".npy")
    write_npy(store, raw, "float32")
    array = np.load(raw, mmap_mode="r").view(np.ndarray)
    with open(path, "wb") as file:
        pickle.dump(array, file, protocol=5)
    raw.unlink()
