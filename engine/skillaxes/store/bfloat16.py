"""bfloat16 as a data type of zarr-python, which has none: that of the zarr-extensions registry, as bits in uint16.

It is registered only while skillaxes opens an array, so that nothing changes for other users of zarr in the same
process. An opened array keeps its data type.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from zarr.core.dtype.common import DataTypeValidationError, HasEndianness, HasItemSize
from zarr.dtype import Float32, ZDType, data_type_registry

from skillaxes.store.dtypes import BFLOAT16, convert, widen

_LOCK = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class BFloat16(ZDType[np.dtypes.UInt16DType, np.uint16], HasEndianness, HasItemSize):
    """Scalars are bit patterns (``np.uint16``); in JSON they are floats, ``"NaN"``, ``"Infinity"`` or ``"0x7fc0"``."""

    dtype_cls: ClassVar[type[np.dtypes.UInt16DType]] = np.dtypes.UInt16DType
    _zarr_v3_name: ClassVar[Literal["bfloat16"]] = "bfloat16"

    @property
    def item_size(self) -> int:
        return 2

    @classmethod
    def from_native_dtype(cls, dtype: Any) -> Self:
        # uint16 must go on meaning unsigned integers: this type is found by name only.
        raise DataTypeValidationError(f"{dtype} is no native form of bfloat16")

    def to_native_dtype(self) -> Any:
        return np.dtype(np.uint16).newbyteorder(">" if self.endianness == "big" else "<")

    @classmethod
    def _from_json_v2(cls, data: Any) -> Self:
        raise DataTypeValidationError("zarr v2 has no bfloat16")

    @classmethod
    def _from_json_v3(cls, data: Any) -> Self:
        if data == cls._zarr_v3_name:
            return cls()
        raise DataTypeValidationError(f"{data!r} is not bfloat16")

    def to_json(self, zarr_format: Any) -> Any:
        if zarr_format != 3:
            raise ValueError("zarr v2 has no bfloat16")
        return self._zarr_v3_name

    def _check_scalar(self, data: object) -> bool:
        return isinstance(data, (int, float, np.floating, np.integer))

    def cast_scalar(self, data: object) -> np.uint16:
        if isinstance(data, np.uint16):
            return data
        if not self._check_scalar(data):
            raise TypeError(f"{data!r} is no bfloat16")
        return np.uint16(convert(np.array([data], dtype=np.float32), "float32", BFLOAT16)[0])

    def default_scalar(self) -> np.uint16:
        return np.uint16(0)

    def from_json_scalar(self, data: Any, *, zarr_format: Any) -> np.uint16:
        if isinstance(data, str) and data.startswith("0x"):
            return np.uint16(int(data, 16))
        return self.cast_scalar(Float32().from_json_scalar(data, zarr_format=zarr_format))

    def to_json_scalar(self, data: object, *, zarr_format: Any) -> Any:
        bits = self.cast_scalar(data)
        value = float(widen(np.array([bits]), BFLOAT16)[0])
        if np.isnan(value) and bits != 0x7FC0:
            return f"0x{bits:04x}"  # a NaN with a payload of its own
        return Float32().to_json_scalar(value, zarr_format=zarr_format)


@contextmanager
def bfloat16_known() -> Iterator[None]:
    """Context in which zarr knows bfloat16. Its registry is restored afterwards."""
    with _LOCK:
        before = data_type_registry.contents.get(BFLOAT16)
        data_type_registry.register(BFLOAT16, BFloat16)
        try:
            yield
        finally:
            if before is None:
                data_type_registry.unregister(BFLOAT16)
            else:
                data_type_registry.register(BFLOAT16, before)
