"""The four dtypes of a store, the numpy dtypes that hold them, and conversions.

numpy has no bfloat16: its values travel as their bit patterns in ``uint16``;
``torch.from_numpy(bits).view(torch.bfloat16)`` gives the tensor.
"""

from __future__ import annotations

from typing import Final

import numpy as np

BFLOAT16: Final = "bfloat16"
DTYPES: Final = ("float16", BFLOAT16, "float32", "float64")
HALF_MAX: Final = 65504.0

_HOLDERS: Final = {"float16": np.float16, BFLOAT16: np.uint16, "float32": np.float32, "float64": np.float64}
# The exponent bits of half precision: all of them set means infinity or NaN.
_EXPONENT: Final = {"float16": 0x7C00, BFLOAT16: 0x7F80}


def holder(dtype: str) -> np.dtype:
    """The numpy dtype, in native byte order, that holds values of ``dtype``."""
    return np.dtype(_HOLDERS[dtype])


def widen(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values of a store in a dtype that numpy can compute in.

    Parameters
    ----------
    values : array of any shape, in the holder of ``dtype``
    dtype : one of ``DTYPES``

    Returns
    -------
    float32 for the half precisions (exact), else ``values`` itself.
    """
    if dtype == BFLOAT16:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32) if dtype == "float16" else values


def convert(values: np.ndarray, dtype: str, to: str) -> np.ndarray:
    """Values of ``dtype`` as values of ``to``, rounded to nearest, ties to even.

    Values too large for ``to`` become infinite; :func:`overflowing_rows` finds them. float64 is converted to bfloat16
    by way of float32.
    """
    if dtype == to:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        wide = widen(values, dtype)
        if to != BFLOAT16:
            return wide.astype(holder(to))
        wide = np.ascontiguousarray(wide, dtype=np.float32)
    bits = wide.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    # Rounding could carry a NaN's payload into infinity: set the quiet bit instead.
    quiet = ((bits >> np.uint32(16)) | np.uint32(0x40)).astype(np.uint16)
    return np.where(np.isnan(wide), quiet, rounded)


def narrows(dtype: str, to: str) -> bool:
    """Whether finite values of ``dtype`` can be too large for ``to``."""
    order = {"float16": 0, BFLOAT16: 1, "float32": 1, "float64": 2}
    return order[to] < order[dtype] or (dtype, to) == ("float32", BFLOAT16)


def not_finite(values: np.ndarray, dtype: str) -> np.ndarray:
    """Mask of the values that are NaN or infinite: bool, same shape."""
    if dtype in _EXPONENT:
        bits = values.view(np.uint16)
        mask = np.uint16(_EXPONENT[dtype])
        return (bits & mask) == mask
    return ~np.isfinite(values)


def bad_rows(values: np.ndarray, dtype: str) -> np.ndarray:
    """Rows of ``values`` (n, D) that hold NaN or infinity: int64 positions."""
    return np.flatnonzero(not_finite(values, dtype).any(axis=1))


def overflowing_rows(before: np.ndarray, dtype: str, after: np.ndarray, to: str) -> np.ndarray:
    """Rows that hold a finite value before and an infinite one after the conversion: int64 positions."""
    if not narrows(dtype, to):
        return np.empty(0, dtype=np.int64)
    suspects = bad_rows(after, to)
    if not suspects.size:
        return suspects
    new = not_finite(after[suspects], to) & ~not_finite(before[suspects], dtype)
    return suspects[new.any(axis=1)]
