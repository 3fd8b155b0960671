"""Which implementation serves a device, a dtype and a shape: a rule that can be asked and overruled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from dataclasses import dataclass
from functools import cache

import torch

from skillaxes_kernels import native_library

BACKENDS = ("auto", "amx", "avx512", "cpu", "torch", "triton", "reference")
MIN_CAPABILITY = (8, 0)
_warned: set[str] = set()


class BackendError(ValueError):
    """A backend that was named and declines, with its reason."""


@dataclass(frozen=True)
class Choice:
    """``name`` is "amx" or "avx512" (compiled for CPUs), "cpu" (plain torch there), "torch" (plain torch on a GPU),
    "triton" (the fused kernel) or "reference".
    """

    name: str
    reasons: tuple[str, ...]


def which(
    device: torch.device | str, dtype: torch.dtype, n_features: int, n_directions: int, backend: str = "auto"
) -> Choice:
    """What would run for panels of ``n_features`` columns of ``dtype`` on ``device``, and why.

    On a CPU the environment variable SKILLAXES_CPU_BACKEND (amx, avx512 or cpu) has ``auto`` choose as on a processor
    on which that is the fastest.

    Raises
    ------
    BackendError : ``backend`` is unknown, or was named and declines; the variable names what is not there
    """
    device = torch.device(device)
    if backend not in BACKENDS:
        raise BackendError(f"backend {backend!r} is unknown; use one of {', '.join(BACKENDS)}")
    if backend == "auto":
        return _automatic(device, dtype, n_features, n_directions)
    reason = _decline(backend, device, dtype, n_features, n_directions)
    if reason is not None:
        raise BackendError(f"backend {backend!r} declines: {reason}")
    return Choice(backend, ("named by the caller",))


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def _automatic(device: torch.device, dtype: torch.dtype, n_features: int, n_directions: int) -> Choice:
    if device.type == "cpu":
        unserved = native_library.named_in_vain()
        if unserved is not None:
            raise BackendError(unserved)
        reasons = ["the panels are on the CPU"]
        for name in ("amx", "avx512"):
            declined = native_library.declines(name, dtype)
            if declined is None:
                return Choice(name, tuple(reasons))
            reasons.append(f"{name} declines: {declined}")
        return Choice("cpu", tuple(reasons))
    reason = _decline("triton", device, dtype, n_features, n_directions)
    if reason is None:
        return Choice("triton", (f"the panels are on {device.type} and the fused kernel takes {dtype}",))
    if dtype != torch.float64 and device.type == "cuda" and torch.cuda.is_available():
        _warn_once(f"plain torch instead of the fused kernel: {reason}")
    return Choice("torch", (f"the panels are on {device.type}", f"the fused kernel declines: {reason}"))


def _decline(backend: str, device: torch.device, dtype: torch.dtype, n_features: int, n_directions: int) -> str | None:
    if backend in native_library.LEVELS:
        moved = None if device.type == "cpu" else f"the panels are on {device.type}; move them to the CPU"
        return moved or native_library.declines(backend, dtype)
    if backend == "cpu":
        return None if device.type == "cpu" else f"the panels are on {device.type}; move them to the CPU"
    if backend == "torch":
        return None if device.type != "cpu" else "the panels are on the CPU; use backend='cpu'"
    if backend == "triton":
        return _triton_declines(device, dtype)
    return None


def _triton_declines(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"it takes float16, bfloat16 and float32 panels, not {dtype}"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda":
        return f"the panels are on {device.type}, it needs CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device; it needs a driver and a CUDA build of torch"
    return _card_declines(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _card_declines(index: int) -> str | None:
    """Asked once a process and card: compiler, Triton, capability, and one real launch."""
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        needed = ".".join(map(str, MIN_CAPABILITY))
        return f"the card has compute capability {capability[0]}.{capability[1]}, {needed} is needed"
    if not _has_triton():
        return "triton is not installed; install it with torch's CUDA build"
    if c_compiler() is None:
        return "no C compiler was found, Triton builds its launcher with one; install gcc or set CC"
    try:
        _launch_once(torch.device("cuda", index))
    except Exception as error:
        return f"a trial launch failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def c_compiler() -> str | None:
    """The C compiler that Triton would call, or None."""
    return next(
        (found for name in (os.environ.get("CC"), "gcc", "clang") if name and (found := shutil.which(name))), None
    )


def _launch_once(device: torch.device) -> None:
    from skillaxes_kernels import triton_launch
    from skillaxes_kernels.types import Scratch

    panel = torch.ones((2, 16), dtype=torch.float16, device=device)
    seen = triton_launch.project(panel, panel[:1].T.float(), None, None, "dots", Scratch(None, None))
    if seen.dots.tolist() != [[16.0], [16.0]]:
        raise RuntimeError(f"16 ones times 16 ones gave {seen.dots.tolist()}")
