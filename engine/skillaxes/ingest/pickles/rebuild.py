"""What a pickle may ask for to describe an array, and the stand-ins that answer: it calls nothing of numpy or torch.

Each stand-in checks its arguments and remembers them; :func:`resolve` turns what was remembered into views of the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from skillaxes.errors import SourceError
from skillaxes.ingest.pickles.machine import Malformed, Mapped, Name, Refused, StandIn, shown

# Storage classes of torch: the numpy dtype of their bytes, and the name where numpy has none.
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
_CODE = re.compile(r"[<>=|]?[A-Za-z?][A-Za-z0-9]{0,15}")
_KINDS = "fiubc"  # numpy's kinds of numbers
_DTYPE_STATE = 5  # entries of a dtype's state that are looked at
_MOST_DIMENSIONS = 32
_DEEPEST = 16  # levels of dicts and lists around an array
_MOST_OBJECTS = 100_000  # looked at around the arrays; lists that hold themselves would never end


@dataclass(frozen=True)
class Values:
    """An array as it lies in a file: any strides, any byte order; bfloat16 as its bits in uint16, hence the name."""

    array: np.ndarray
    dtype: str

    @classmethod
    def of(cls, array: np.ndarray) -> Values:
        return cls(array, array.dtype.newbyteorder("=").name)


class DtypeStandIn:
    """Stands for a ``numpy.dtype``."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if isinstance(code, Name):
            self.code = code.name  # ml_dtypes.bfloat16
        else:
            self.code = str(code, "ascii") if isinstance(code, memoryview) else code
        if not isinstance(self.code, str):
            raise Malformed("a numpy.dtype without a code")
        self.order: Literal["<", ">", "|", "="] = "="

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < _DTYPE_STATE:
            raise Malformed("a numpy.dtype with an unknown state")
        order: Any = str(state[1], "ascii") if isinstance(state[1], memoryview) else state[1]
        if order not in ("<", ">", "|", "="):
            raise Malformed("a numpy.dtype with an unknown byte order")
        if any(part is not None for part in state[2:5]):
            raise SourceError("the array has several fields a value (a structured dtype); needed: one number a value")
        self.order = order

    def resolve(self) -> tuple[np.dtype, str]:
        """(dtype of the bytes, name)."""
        if self.code == "bfloat16":
            return np.dtype("<u2"), "bfloat16"
        if self.code[:1] == "O":
            raise SourceError("the array holds Python objects (dtype object), not numbers; nothing of it was unpickled")
        try:
            dtype = np.dtype(_CODE.fullmatch(self.code)[0])  # type: ignore[index]
        except TypeError:
            raise Malformed(f"a numpy.dtype with the unknown code {shown(self.code)}") from None
        if dtype.kind not in _KINDS:
            raise SourceError(f"the array holds {dtype.name}; needed: numbers")
        dtype = dtype.newbyteorder(self.order)
        return dtype, dtype.newbyteorder("=").name


def _extents(shape: Any) -> tuple[int, ...]:
    whole = isinstance(shape, (tuple, list)) and all(type(extent) is int and extent >= 0 for extent in shape)
    if not whole or len(shape) > _MOST_DIMENSIONS:
        raise Malformed(f"an array of shape {shown(shape)}")
    return tuple(shape)


class ArrayStandIn:
    """Stands for a ``numpy.ndarray``, first empty, then with a state."""

    def __init__(self, kind: Any = None, *_: Any) -> None:
        if not isinstance(kind, Name) or (kind.module, kind.name) != ("numpy", "ndarray"):
            raise Refused(f"refused: the pickle rebuilds {shown(kind)} as if it were an array")
        self._described: tuple[Any, Any, str, tuple[int, ...] | None, Any] | None = None

    @classmethod
    def from_buffer(cls, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> ArrayStandIn:
        made = cls(Name("numpy", "ndarray"))
        if order not in ("C", "F", "K"):
            raise Malformed("an array in an unknown order")
        permuted = _extents(axes) if order == "K" and axes is not None else None
        made._described = (shape, dtype, "F" if order == "F" else "C", permuted, raw)
        return made

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise Malformed("an array with an unknown state")
        shape, dtype, fortran, raw = state[-4:]
        self._described = (shape, dtype, "F" if fortran else "C", None, raw)

    def resolve(self) -> Values:
        if self._described is None:
            raise Malformed("an array without values")
        shape, described, order, permuted, raw = self._described
        if not isinstance(described, DtypeStandIn):
            raise Malformed("an array without a dtype")
        dtype, name = described.resolve()
        extents = _extents(shape)
        if not isinstance(raw, memoryview) or raw.nbytes != math.prod(extents) * dtype.itemsize:
            raise Malformed(f"an array of shape {extents} and dtype {name} whose bytes do not fit it")
        if 0 in extents:
            return Values(np.empty(0, dtype=dtype).reshape(extents), name)
        array = np.frombuffer(raw, dtype=dtype).reshape(extents, order="F" if order == "F" else "C")
        if permuted is not None:
            if sorted(permuted) != list(range(len(extents))):
                raise Malformed("an array with unknown axes")
            array = array.transpose(permuted)
        return Values(array, name)


@dataclass
class StorageStandIn:
    """Stands for a storage of torch; ``data`` comes when its place in the file is known."""

    kind: str  # a numpy dtype string, or "bfloat16"
    numel: int
    data: memoryview | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("<u2" if self.kind == "bfloat16" else self.kind)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @classmethod
    def of(cls, kind: Any, numel: Any) -> StorageStandIn:
        if not isinstance(kind, Name) or kind.name not in _STORAGES or type(numel) is not int or numel < 0:
            raise Malformed(f"a tensor in an unknown storage, {shown(kind)}")
        return cls(_STORAGES[kind.name], numel)


class TensorStandIn:
    """Stands for a ``torch.Tensor``: a view of a storage."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        if not isinstance(storage, StorageStandIn) or type(offset) is not int or offset < 0:
            raise Malformed("a tensor without a storage")
        self._storage = storage
        self._offset = offset
        self._size = _extents(size)
        self._stride = _extents(stride)
        if len(self._size) != len(self._stride):
            raise Malformed("a tensor whose size and stride differ in length")

    def resolve(self) -> Values:
        storage, dtype = self._storage, self._storage.dtype
        if storage.data is None or storage.data.nbytes < storage.nbytes:
            raise Malformed("a tensor whose storage is not in the file")
        count = math.prod(self._size)
        if count > storage.numel:
            raise SourceError("the tensor is expanded (it repeats its values); save x.contiguous() instead")
        last = self._offset + sum((extent - 1) * step for extent, step in zip(self._size, self._stride, strict=True))
        if count and last >= storage.numel:
            raise Malformed("a tensor that reaches beyond its storage")
        flat = np.frombuffer(storage.data[: storage.nbytes], dtype=dtype)
        if not count:
            return Values(np.empty(0, dtype=dtype).reshape(self._size), self._name)
        strides = tuple(step * dtype.itemsize for step in self._stride)
        return Values(np.lib.stride_tricks.as_strided(flat[self._offset :], self._size, strides), self._name)

    @property
    def _name(self) -> str:
        return "bfloat16" if self._storage.kind == "bfloat16" else self._storage.dtype.name


def _parameter(data: Any = None, *_: Any) -> Any:
    if not isinstance(data, TensorStandIn):
        raise Malformed("a parameter without a tensor")
    return data


def _encode(text: Any = None, encoding: Any = None) -> memoryview:
    # The way bytes go through protocols 0 to 2; other codecs (zip, rot13, ...) are not for that.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused(f"refused: the pickle asks for the codec {shown(encoding)}, which no array needs")
    return memoryview(text.encode("latin-1"))


def _ordered(pairs: Any = ()) -> Mapped:
    made = Mapped()
    for pair in pairs if isinstance(pairs, (list, tuple)) else ():
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise Malformed("an ordered dict without pairs")
        made[pair[0]] = pair[1]
    return made


def _size(extents: Any = ()) -> tuple[int, ...]:
    return _extents(extents)


def _scalar(*_: Any) -> None:
    return None  # a number beside the array: not looked at


def table(load_from_bytes: StandIn) -> dict[tuple[str, str], StandIn | None]:
    """The names that are admitted.

    Parameters
    ----------
    load_from_bytes : stands for torch's nested load of a storage, which in torch itself admits anything
    """
    names: dict[tuple[str, str], StandIn | None] = {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): DtypeStandIn,
        ("ml_dtypes", "bfloat16"): None,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): _ordered,
        ("torch", "Size"): _size,
        ("torch", "device"): _scalar,
        ("torch._utils", "_rebuild_tensor"): TensorStandIn,
        ("torch._utils", "_rebuild_tensor_v2"): TensorStandIn,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch.storage", "_load_from_bytes"): load_from_bytes,
    }
    for module in ("numpy.core", "numpy._core"):
        names[f"{module}.multiarray", "_reconstruct"] = ArrayStandIn
        names[f"{module}.multiarray", "scalar"] = _scalar
        names[f"{module}.numeric", "_frombuffer"] = ArrayStandIn.from_buffer
    for storage in _STORAGES:
        names["torch", storage] = None
        names["torch.cuda", storage] = None
    return names


def resolve(found: Any) -> dict[str, Values | list[Values]]:
    """The arrays in what a pickle describes, by name: ``""`` for the object itself, keys of dicts joined by dots.

    A list of arrays stays one entry; what is neither array, dict nor list is left out.

    Raises
    ------
    SourceError : an array that cannot be taken, or too much around the arrays
    """
    arrays: dict[str, Values | list[Values]] = {}
    waiting: list[tuple[str, Any, int]] = [("", found, 0)]
    looked_at = 0
    while waiting:
        name, value, depth = waiting.pop()
        looked_at += 1
        if isinstance(value, (ArrayStandIn, TensorStandIn)):
            arrays[name] = _values(value)
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, _ARRAYS) for item in value):
            arrays[name] = [_values(item) for item in value]
        elif isinstance(value, (Mapping, list, tuple)):
            looked_at += len(value)
            if depth == _DEEPEST or looked_at > _MOST_OBJECTS:
                raise SourceError("the pickle holds too much around its arrays; save the array alone, e.g. numpy.save")
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting.extend((_joined(name, key), item, depth + 1) for key, item in pairs)
    return arrays


def _joined(name: str, key: Any) -> str:
    label = str(key, "utf-8", "replace") if isinstance(key, bytes) else str(key)
    return f"{name}.{label}" if name else label


def _values(stand_in: ArrayStandIn | TensorStandIn) -> Values:
    try:
        return stand_in.resolve()
    except (ValueError, MemoryError, OverflowError) as error:
        raise Malformed(f"an array that cannot be ({error})") from error


_ARRAYS = (ArrayStandIn, TensorStandIn)
