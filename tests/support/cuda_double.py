"""A CUDA device where there is none: tensors that report ``cuda:0`` and compute on the CPU, another device to torch.

A computation that mixes devices is an error, as on a card, and so is a tensor of the card that numpy is to read.
Launches, synchronisations and copies are counted. What a card does in its own time (streams, events) is not shown here:
that is the matter of ``tests/stream/device_double.py``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda", 0)
SOURCE = Path(__file__).with_name("cuda_double_guard.cpp")
COMPILERS = ("c++", "g++", "clang++")
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPYING = {"copy_", "_to_copy"}
ALLOCATING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
# Operations whose outcome, or whose check for errors, the host waits for.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "_linalg_eigh", "_linalg_svd"}
# The shape of a tensor of the double is fixed.
RESHAPING = {"resize_", "set_", "t_", "transpose_", "squeeze_", "unsqueeze_", "as_strided_"}


@dataclass
class Counts:
    """What was asked of the card.

    Attributes
    ----------
    launches : operations that run on it, by name; views and allocations are none, copies from and to the host are none
    waits : operations that make the host wait for it, by name
    copies_to_host, bytes_to_host, copies_to_card, bytes_to_card : between the two memories
    """

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copies_to_host: int = 0
    bytes_to_host: int = 0
    copies_to_card: int = 0
    bytes_to_card: int = 0

    def clear(self) -> None:
        """Begin anew."""
        self.launches.clear()
        self.waits.clear()
        self.copies_to_host = self.bytes_to_host = self.copies_to_card = self.bytes_to_card = 0


counts = Counts()


class OnCard(Tensor):
    """A tensor of the card; ``held`` is the CPU tensor that computes for it."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CARD,
            requires_grad=False,
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    __index__ = __int__

    def __repr__(self) -> str:
        return f"OnCard({self.held!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *arguments: Any, **named: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Inside it tensors that are made on ``cuda`` are :class:`OnCard`."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def missing() -> str | None:
    """Why there can be no double here; None where there can."""
    if torch.cuda.is_available():
        return "there is a card, which tests/gpu tests itself"
    return None if _compiler() else "no C++ compiler (c++, g++, clang++, or $CXX) to build the double's guard with"


@contextmanager
def cuda_double(folder: Path) -> Iterator[Counts]:
    """One card, for the calling thread.

    Parameters
    ----------
    folder : where the compiled guard is kept
    """
    _load_guard(folder)
    counts.clear()
    with (
        mock.patch.object(torch.cuda, "_lazy_init", lambda: None),
        mock.patch.object(torch.cuda, "device_count", lambda: 1),
        mock.patch.object(torch.cuda, "get_device_name", lambda device=None: "a double"),
        _Factories(),
    ):
        yield counts


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, COMPILERS)), None)


@cache
def _load_guard(folder: Path) -> None:
    """Compile the guard, once for each torch, and register it with this process."""
    root = Path(torch.__file__).parent
    made = folder / f"guard-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}-{torch.__version__}.so"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            target = Path(aside, made.name)
            abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
            command = [str(_compiler()), "-shared", "-fPIC", "-std=c++17", abi, f"-I{root / 'include'}", str(SOURCE)]
            command += ["-o", str(target), f"-L{root / 'lib'}", "-lc10"]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
            target.replace(made)
    ctypes.CDLL(str(made))


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation: devices checked, counted, computed on the CPU."""
    name = function._schema.name.partition("::")[2]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    _check_devices(name, args, tensors)
    wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    wrappers = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, OnCard)}
    if wanted is not None and wanted.type == CARD.type:
        assert wanted.index in (None, 0), f"{name}: invalid device ordinal {wanted}"
    if name in COPYING and wanted is None:
        on_card = isinstance(args[0], OnCard)
    else:
        on_card = bool(wrappers) if wanted is None else wanted.type == CARD.type
    _count(function, name, args, kwargs, tensors, on_card)
    inside = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if wanted is not None and wanted.type == CARD.type:
        inside["device"] = torch.device("cpu")
    out = function(*tree_map(_held, args), **tree_map(_held, inside))

    def wrapped(result: Any) -> Any:
        if not isinstance(result, Tensor) or isinstance(result, OnCard):
            return result
        if id(result) in wrappers:
            return wrappers[id(result)]
        return OnCard(result) if on_card else result

    return tree_map(wrapped, out)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnCard) else value


def _check_devices(name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Raise where a card would: numbers (0-dim tensors of the CPU) go with everything, indices may lie on the CPU."""
    on_card = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
    if not on_card:
        return
    if name in RESHAPING:
        raise NotImplementedError(f"{name}: the double's tensors keep their shape")
    if name in COPYING:
        return
    if name in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if not isinstance(args[0], OnCard) and any(isinstance(index, OnCard) for index in indices):
            raise RuntimeError(f"{name}: a tensor on cpu is indexed by one on cuda:0")
        tensors = [tensor for tensor in tensors if all(tensor is not index for index in indices)]
        on_card = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
    on_host = [tensor for tensor in tensors if not isinstance(tensor, OnCard) and tensor.dim() > 0]
    if on_card and on_host:
        shapes = ", ".join(f"{tensor.device}{tuple(tensor.shape)}" for tensor in tensors)
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, got {shapes}")


def _count(
    function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], on_card: bool
) -> None:
    if name in COPYING:
        source = args[0] if name == "_to_copy" else args[1]
        if isinstance(source, OnCard) and not on_card:
            counts.copies_to_host += 1
            counts.bytes_to_host += source.nbytes
            if not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])):
                counts.waits[name] += 1
            return
        if on_card and not isinstance(source, OnCard):
            counts.copies_to_card += 1
            counts.bytes_to_card += source.nbytes
            return
    if not on_card and not any(isinstance(tensor, OnCard) for tensor in tensors):
        return
    if name in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype == torch.bool for index in indices):
            counts.waits[name] += 1
        counts.copies_to_card += sum(not isinstance(index, OnCard) for index in indices)
    if name in WAITING:
        counts.waits[name] += 1
    if name not in ALLOCATING and name != "_local_scalar_dense" and not _is_view(function):
        counts.launches[name] += 1


def _is_view(function: Any) -> bool:
    """Whether an operation returns another look at what it was given, and writes nothing."""
    returns = function._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)
