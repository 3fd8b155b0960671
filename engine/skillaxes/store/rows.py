"""Rows as callers hold them: numpy arrays and torch tensors, as the arrays a store is written from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skillaxes.errors import StoreError
from skillaxes.store.dtypes import BFLOAT16, DTYPES

_ROWS_NAMED = 10


def rows_as_array(rows: Any) -> tuple[np.ndarray, str]:
    """(values, dtype) of an array or a tensor, in native byte order; a bfloat16 tensor as its bits, any on the host.

    Raises
    ------
    StoreError : not numbers of a store's dtypes
    """
    name = str(rows.dtype).removeprefix("torch.") if hasattr(rows, "dtype") else ""
    if hasattr(rows, "detach") and name in DTYPES:
        tensor = rows.detach().cpu().contiguous()
        if name == BFLOAT16:
            import torch  # it is there: a tensor was given

            return tensor.view(torch.int16).numpy().view(np.uint16), BFLOAT16
        return tensor.numpy(), name
    if not hasattr(rows, "detach"):
        rows = np.asarray(rows)
        name = rows.dtype.name
    if name not in DTYPES:
        raise StoreError(f"rows are {name}; needed: {', '.join(DTYPES)}; convert them, e.g. rows.astype('float32')")
    if name == BFLOAT16:
        return rows.view(np.uint16), BFLOAT16
    return rows.astype(rows.dtype.newbyteorder("="), copy=False), name


def name_rows(rows: Sequence[int] | np.ndarray) -> str:
    """``"rows 3, 17 and 204"``, shortened."""
    shown = [str(int(row)) for row in rows[:_ROWS_NAMED]]
    if len(rows) > _ROWS_NAMED:
        return f"rows {', '.join(shown)} and {len(rows) - _ROWS_NAMED} more"
    return f"row {shown[0]}" if len(shown) == 1 else f"rows {', '.join(shown[:-1])} and {shown[-1]}"
