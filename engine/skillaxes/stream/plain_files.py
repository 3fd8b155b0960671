"""Bytes of plain files straight into tensors."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from skillaxes.errors import StoreError

Path = os.PathLike[str] | str


def as_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory as numpy sees it; bfloat16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()


def read_exactly(path: Path, offset: int, view: memoryview) -> None:
    """Fill ``view`` from ``offset`` on.

    Raises
    ------
    StoreError : there is no such file, or it ends too early
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise StoreError(f"{path}: this chunk is not stored; copy the store again") from None
    try:
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done:]], offset + done)
            if count == 0:
                raise StoreError(f"{path}: ends {len(view) - done:,} bytes too early; copy the store again")
            done += count
    finally:
        os.close(descriptor)


def will_need(path: Path, offset: int, n_bytes: int) -> None:
    """Ask the kernel to fetch bytes that are read soon; whatever keeps it from doing so, the read itself reports."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.posix_fadvise(descriptor, offset, n_bytes, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
