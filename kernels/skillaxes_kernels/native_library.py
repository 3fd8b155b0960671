"""The library of compiled products for CPUs: where it is, what this processor runs of it, its threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

LIBRARY = Path(__file__).with_name("_native.so")
LEVELS = {"avx512": 1, "amx": 2}  # as entry.c numbers them: each includes what is below it
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as panel.h does
CPU_BACKEND = "SKILLAXES_CPU_BACKEND"  # amx, avx512 or cpu: choose as on a processor on which this is the fastest
ALONE = 1 << 18  # entries of a panel that one thread is done with before a second one has woken up


class Panel(ctypes.Structure):
    """``panel_t`` of panel.h."""

    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("b", ctypes.c_int64),
        ("d", ctypes.c_int64),
        ("dtype", ctypes.c_int64),
        ("shift", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("after", ctypes.c_void_p),
    )


_INT, _LONG, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "skx_level": (_INT, ()),
    "skx_packed_directions_bytes": (_LONG, (_INT, _LONG, _LONG, _LONG)),
    "skx_pack_directions": (None, (_INT, _POINTER, _LONG, _LONG, _LONG, _LONG, _POINTER, _POINTER)),
    "skx_packed_weights_bytes": (_LONG, (_INT, _LONG, _LONG, _LONG)),
    "skx_pack_weights": (None, (_INT, _POINTER, _LONG, _LONG, _LONG, _LONG, _LONG, _POINTER)),
    "skx_project": (None, (_INT, _POINTER, _POINTER, _LONG, _LONG, _POINTER, _POINTER, _LONG, _POINTER)),
    "skx_accumulate": (None, (_INT, _POINTER, _POINTER, _LONG, _LONG, _LONG, _POINTER, _LONG, _POINTER)),
    "skx_beyond_two_terms": (_INT, (_POINTER, _LONG)),
    "skx_column_sums": (None, (_POINTER, _POINTER, _POINTER)),
    "skx_sq_norms": (None, (_POINTER, _POINTER, _LONG, _POINTER, _POINTER)),
}


@cache
def library() -> Any:
    """The library with its signatures; a line that says why not, where it is missing or cannot be loaded."""
    if not LIBRARY.exists():
        return "it was not built: there was no C compiler for x86-64 when skillaxes was installed"
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return f"{LIBRARY.name} cannot be loaded ({error}); install skillaxes again"
    return loaded


@cache
def offered() -> int:
    """The most of :data:`LEVELS` that this processor and its system offer; 0 for none, or without the library."""
    loaded = library()
    return 0 if isinstance(loaded, str) else loaded.skx_level()


def level() -> int:
    """The most of them that may run: what is offered, or less where $SKILLAXES_CPU_BACKEND says so."""
    named = os.environ.get(CPU_BACKEND)
    return min(offered(), LEVELS.get(named, 0)) if named else offered()


def named_in_vain() -> str | None:
    """Why what $SKILLAXES_CPU_BACKEND names cannot be served; None where it can, or names nothing."""
    named = os.environ.get(CPU_BACKEND)
    if not named or named == "cpu":
        return None
    if named not in LEVELS:
        return f"{CPU_BACKEND}={named} is unknown; use one of {', '.join(sorted(LEVELS))}, cpu"
    if offered() >= LEVELS[named]:
        return None
    loaded = library()
    reason = loaded if isinstance(loaded, str) else _missing(named)
    return f"{CPU_BACKEND}={named}: {reason}; name another, or none"


def declines(backend: str, dtype: torch.dtype) -> str | None:
    """Why ``backend`` (``amx`` or ``avx512``) cannot serve panels of ``dtype`` on this CPU; None where it can."""
    loaded = library()
    if isinstance(loaded, str):
        return loaded
    if dtype not in DTYPES:
        return f"it takes float16, bfloat16 and float32 panels, not {dtype}"
    if offered() < LEVELS[backend]:
        return _missing(backend)
    if level() < LEVELS[backend]:
        return f"{CPU_BACKEND}={os.environ[CPU_BACKEND]} rules it out"
    return None


def _missing(backend: str) -> str:
    missing = "AVX-512 (F, BW, DQ, VL)" if backend == "avx512" or offered() == 0 else "AMX tiles for bfloat16"
    return f"this CPU or its operating system does not offer {missing}"


def run(name: str, work: int, *arguments: Any) -> None:
    """Call a kernel on as many threads as torch has; they share a counter from which each takes its next piece."""
    function: Callable[..., None] = getattr(library(), name)
    counter = np.zeros(8, dtype=np.int64)
    n_others = 0 if work < ALONE else torch.get_num_threads() - 1
    others = [_pool(n_others).submit(function, *arguments, counter.ctypes.data) for _ in range(n_others)]
    try:
        function(*arguments, counter.ctypes.data)
    finally:
        for other in others:
            other.result()


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="skillaxes-product")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along
