"""Placeholders for arrays and tensors: the constructors that a pickle may name, without numpy's or torch's own.

A constructor checks its arguments and keeps them; :meth:`values` makes a view of the file of them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from skillaxes.errors import SourceError
from skillaxes.ingest.matrix import Values
from skillaxes.ingest.pickles.unpickler import Constructor, Constructors, Name, shown

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


class PlaceholderDtype:
    """A ``numpy.dtype``: its code, then its byte order as a state."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if isinstance(code, Name):
            self.code = code.name  # ml_dtypes.bfloat16
        else:
            self.code = str(code, "ascii") if isinstance(code, memoryview) else code
        if not isinstance(self.code, str):
            raise SourceError("a numpy.dtype without a code")
        self.order: Literal["<", ">", "|", "="] = "="

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < _DTYPE_STATE:
            raise SourceError("a numpy.dtype with an unknown state")
        order: Any = str(state[1], "ascii") if isinstance(state[1], memoryview) else state[1]
        if order not in ("<", ">", "|", "="):
            raise SourceError("a numpy.dtype with an unknown byte order")
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
            raise SourceError(f"a numpy.dtype with the unknown code {shown(self.code)}") from None
        if dtype.kind not in _KINDS:
            raise SourceError(f"the array holds {dtype.name}; needed: numbers")
        dtype = dtype.newbyteorder(self.order)
        return dtype, dtype.newbyteorder("=").name


def _extents(shape: Any) -> tuple[int, ...]:
    whole = isinstance(shape, (tuple, list)) and all(type(extent) is int and extent >= 0 for extent in shape)
    if not whole or len(shape) > _MOST_DIMENSIONS:
        raise SourceError(f"an array of shape {shown(shape)}")
    return tuple(shape)


@dataclass
class PlaceholderArray:
    """A ``numpy.ndarray``: first empty, then with a state."""

    shape: Any = None
    dtype: Any = None
    order: Literal["C", "F"] = "C"
    axes: tuple[int, ...] | None = None  # a transpose of what the bytes hold
    raw: Any = None

    @classmethod
    def reconstruct(cls, kind: Any = None, *_: Any) -> PlaceholderArray:
        """numpy's ``_reconstruct``: an empty array."""
        if not isinstance(kind, Name) or (kind.module, kind.name) != ("numpy", "ndarray"):
            raise SourceError(f"refused: the pickle rebuilds {shown(kind)} as if it were an array")
        return cls()

    @classmethod
    def from_buffer(cls, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> PlaceholderArray:
        """numpy's ``_frombuffer``, of protocol 5."""
        if order not in ("C", "F", "K"):
            raise SourceError("an array in an unknown order")
        permuted = _extents(axes) if order == "K" and axes is not None else None
        return cls(shape, dtype, "F" if order == "F" else "C", permuted, raw)

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise SourceError("an array with an unknown state")
        self.shape, self.dtype, fortran, self.raw = state[-4:]
        self.order, self.axes = "F" if fortran else "C", None

    def values(self) -> Values:
        if self.raw is None:
            raise SourceError("an array without values")
        if not isinstance(self.dtype, PlaceholderDtype):
            raise SourceError("an array without a dtype")
        dtype, name = self.dtype.resolve()
        extents = _extents(self.shape)
        if not isinstance(self.raw, memoryview) or self.raw.nbytes != math.prod(extents) * dtype.itemsize:
            raise SourceError(f"an array of shape {extents} and dtype {name} whose bytes do not fit it")
        if 0 in extents:
            return Values(np.empty(0, dtype=dtype).reshape(extents), name)
        array = np.frombuffer(self.raw, dtype=dtype).reshape(extents, order=self.order)
        if self.axes is not None:
            if sorted(self.axes) != list(range(len(extents))):
                raise SourceError("an array with unknown axes")
            array = array.transpose(self.axes)
        return Values(array, name)


@dataclass
class PlaceholderStorage:
    """A storage of torch; ``data`` is set when its place in the file is known."""

    kind: str  # a numpy dtype string, or "bfloat16"
    numel: int
    data: memoryview | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("<u2" if self.kind == "bfloat16" else self.kind)

    @property
    def dtype_name(self) -> str:
        return "bfloat16" if self.kind == "bfloat16" else self.dtype.name

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @classmethod
    def of(cls, kind: Any, numel: Any) -> PlaceholderStorage:
        if not isinstance(kind, Name) or kind.name not in _STORAGES or type(numel) is not int or numel < 0:
            raise SourceError(f"a tensor in an unknown storage, {shown(kind)}")
        return cls(_STORAGES[kind.name], numel)


class PlaceholderTensor:
    """A ``torch.Tensor``: offset, size and strides, in numbers, over a storage."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        if not isinstance(storage, PlaceholderStorage) or type(offset) is not int or offset < 0:
            raise SourceError("a tensor without a storage")
        self._storage = storage
        self._offset = offset
        self._size = _extents(size)
        self._stride = _extents(stride)
        if len(self._size) != len(self._stride):
            raise SourceError("a tensor whose size and stride differ in length")

    def values(self) -> Values:
        storage, dtype = self._storage, self._storage.dtype
        if storage.data is None or storage.data.nbytes < storage.nbytes:
            raise SourceError("a tensor whose storage is not in the file")
        count = math.prod(self._size)
        if count > storage.numel:
            raise SourceError("the tensor is expanded (it repeats its values); save x.contiguous() instead")
        last = self._offset + sum((extent - 1) * step for extent, step in zip(self._size, self._stride, strict=True))
        if count and last >= storage.numel:
            raise SourceError("a tensor that reaches beyond its storage")
        flat = np.frombuffer(storage.data[: storage.nbytes], dtype=dtype)
        if not count:
            return Values(np.empty(0, dtype=dtype).reshape(self._size), storage.dtype_name)
        strides = tuple(step * dtype.itemsize for step in self._stride)
        return Values(np.lib.stride_tricks.as_strided(flat[self._offset :], self._size, strides), storage.dtype_name)


class PlaceholderDict(dict[Any, Any]):
    """An ``OrderedDict``; the state that torch hangs on one is not needed."""

    @classmethod
    def of(cls, pairs: Any = ()) -> PlaceholderDict:
        made = cls()
        for pair in pairs if isinstance(pairs, (list, tuple)) else ():
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
                raise SourceError("an ordered dict without pairs")
            made[pair[0]] = pair[1]
        return made

    def build(self, state: Any) -> None:
        pass


def _parameter(data: Any = None, *_: Any) -> PlaceholderTensor:
    if not isinstance(data, PlaceholderTensor):
        raise SourceError("a parameter without a tensor")
    return data


def _encode(text: Any = None, encoding: Any = None) -> memoryview:
    # Protocols 0 to 2 write bytes in this way; other codecs (zip, rot13, ...) are not for that.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise SourceError(f"refused: the pickle asks for the codec {shown(encoding)}, which no array needs")
    return memoryview(text.encode("latin-1"))


def _size(extents: Any = ()) -> tuple[int, ...]:
    return _extents(extents)


def _ignored(*_: Any) -> None:
    """A number or a device beside the array."""


def constructors(load_from_bytes: Constructor) -> Constructors:
    """The names that are admitted.

    Parameters
    ----------
    load_from_bytes : in place of torch's nested load of a storage, which in torch itself admits anything
    """
    names: dict[tuple[str, str], Constructor | None] = {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): PlaceholderDtype,
        ("ml_dtypes", "bfloat16"): None,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): PlaceholderDict.of,
        ("torch", "Size"): _size,
        ("torch", "device"): _ignored,
        ("torch._utils", "_rebuild_tensor"): PlaceholderTensor,
        ("torch._utils", "_rebuild_tensor_v2"): PlaceholderTensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch.storage", "_load_from_bytes"): load_from_bytes,
    }
    for module in ("numpy.core", "numpy._core"):
        names[f"{module}.multiarray", "_reconstruct"] = PlaceholderArray.reconstruct
        names[f"{module}.multiarray", "scalar"] = _ignored
        names[f"{module}.numeric", "_frombuffer"] = PlaceholderArray.from_buffer
    for storage in _STORAGES:
        names["torch", storage] = None
        names["torch.cuda", storage] = None
    return names
