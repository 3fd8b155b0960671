"""``.safetensors``: tensors as views of the mapped file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.errors import SourceError
from skillaxes.ingest.matrix import MappedFile, Matrix, Values, ViewMatrix, unusable

_SAFETENSORS = {
    "F16": ("<f2", "float16"),
    "BF16": ("<u2", "bfloat16"),
    "F32": ("<f4", "float32"),
    "F64": ("<f8", "float64"),
    "I8": ("|i1", "int8"),
    "U8": ("|u1", "uint8"),
    "I16": ("<i2", "int16"),
    "U16": ("<u2", "uint16"),
    "I32": ("<i4", "int32"),
    "U32": ("<u4", "uint32"),
    "I64": ("<i8", "int64"),
    "U64": ("<u8", "uint64"),
    "BOOL": ("|b1", "bool"),
}
_LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library


def read_safetensors(path: Path) -> dict[str, Matrix]:
    """The tensors of a ``.safetensors`` by name, as views of the mapped file.

    Format: 8 bytes of length, a JSON header of that length, the values (huggingface/safetensors, README).
    """
    mapped = MappedFile(path)
    data = mapped.view
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_LARGEST_HEADER, len(data) - 8):
        raise SourceError("the file is no .safetensors, or cut off within its header")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _tensor(name, entry, data[8 + length :], mapped) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"the .safetensors header cannot be read: {' '.join(str(error).split())}") from error


def _tensor(name: str, entry: dict[str, Any], values: memoryview, mapped: MappedFile) -> Matrix:
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    code = str(entry["dtype"])
    if not all(type(part) is int and part >= 0 for part in (*shape, begin, end)):
        raise SourceError(f"{name} has a shape or place that are no numbers; the file is damaged")
    if code not in _SAFETENSORS:
        return unusable(shape, code)
    dtype, label = _SAFETENSORS[code]
    if end - begin != math.prod(shape) * np.dtype(dtype).itemsize or end > len(values):
        raise SourceError(f"{name} of shape {shape} is cut off or overlong; the file is damaged")
    flat = np.frombuffer(values[begin:end], dtype=dtype) if end > begin else np.empty(0, dtype=dtype)
    return ViewMatrix.of(Values(flat.reshape(shape), label), name, mapped.release)
