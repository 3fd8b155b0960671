"""The compiled products for CPUs, from Python's side: pointers to rows, packed operands.

``csrc/`` holds them in C: one pass over a panel in the store's own dtype converts, centres, multiplies and sums, so a
panel is never written out in float32. Two sets of instructions: ``amx`` (matrix tiles of bfloat16 terms that add up to
float32, Henry, Tang & Heinecke 2019) and ``avx512`` (float32). The library is built when the package is installed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillaxes_kernels.types import MAX_SQ_NORM, Projection, Scratch, cosines, require_finite

LIBRARY = Path(__file__).parents[1] / "_native.so"  # where hatch_build.py puts it
LEVELS = {"avx512": 1, "amx": 2}  # as entry.c numbers them: each includes what is below it
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as panel.h does
ALONE = 1 << 18  # entries of a panel that one thread is done with before a second one has woken up
MOST_DIRECTIONS = 1024  # of one call; more are served in groups
_BLOCK = 32  # rows that the kernels may write beyond the panel's last, into room that is cut off again
_ROOM = 64  # pointers to rows come in multiples of it, as panel.h says
_LARGEST = 256  # rows of a piece of work, as panel.h says: directions come from memory once for these
_LINE = 64  # bytes of a cache line, to which packed operands are aligned


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
def level() -> int:
    """The most of :data:`LEVELS` that this processor and its system offer; 0 for none, or without the library."""
    loaded = library()
    return 0 if isinstance(loaded, str) else loaded.skx_level()


def declines(backend: str, dtype: torch.dtype) -> str | None:
    """Why ``backend`` (``amx`` or ``avx512``) cannot serve panels of ``dtype`` on this CPU; None where it can."""
    loaded = library()
    if isinstance(loaded, str):
        return loaded
    if dtype not in DTYPES:
        return f"it takes float16, bfloat16 and float32 panels, not {dtype}"
    if level() < LEVELS[backend]:
        missing = "AVX-512 (F, BW, DQ, VL)" if backend == "avx512" or level() == 0 else "AMX tiles for bfloat16"
        return f"this CPU or its operating system does not offer {missing}"
    return None


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


@dataclass(frozen=True)
class _Rows:
    """A panel as the kernels see it. What the pointers point at is kept."""

    panel: Panel
    kept: tuple[Any, ...]
    pointers: np.ndarray

    def without(self, bad: Tensor) -> _Rows:
        """The same rows, with zeros in place of bad ones."""
        zeros = torch.zeros(self.panel.d, dtype=torch.float32)
        pointers = self.pointers.copy()
        pointers[: len(bad)][bad.numpy()] = zeros.data_ptr()
        pointers[len(bad) :] = pointers[len(bad) - 1]
        panel = Panel.from_buffer_copy(self.panel)
        panel.rows = pointers.ctypes.data
        return _Rows(panel, (*self.kept, zeros), pointers)


@dataclass(frozen=True)
class _Packed:
    """Directions as the kernels read them, and what they were made of; see ``fused.Preparation``."""

    directions: Tensor
    version: int
    backend: str
    groups: tuple[tuple[int, int, Tensor], ...]  # directions, terms, packed

    def serves(self, directions: Tensor, backend: str) -> bool:
        return self.directions is directions and self.version == directions._version and self.backend == backend


def project(
    backend: str,
    pieces: Sequence[Tensor],
    directions: Tensor,
    shift: Tensor | None,
    scale: Tensor | None,
    epilogue: str,
    scratch: Scratch,
    known_bad: Tensor | None = None,
) -> Projection:
    """See :func:`skillaxes_kernels.project`; arguments were checked there.

    Directions of at most 16 bits (:func:`skillaxes_kernels.round_directions`) take five tile products with ``amx``,
    others six; both are float32's product.
    """
    rows = _rows(pieces, shift, scale)
    b, d, n_directions = rows.panel.b, rows.panel.d, directions.shape[1]
    dots = torch.empty((b, n_directions), dtype=torch.float32)
    norms = None if known_bad is not None else torch.empty(max(b, 1), dtype=torch.float64)
    first = 0
    for n, terms, packed in _packed(backend, directions, scratch).groups:
        padded = n + -n % 16
        block = torch.empty((b + _BLOCK, padded), dtype=torch.float32)
        piece = min(_LARGEST, max(16, -(-b // (2 * torch.get_num_threads())) + 15 & ~15))
        run(
            "skx_project", b * d, LEVELS[backend], ctypes.addressof(rows.panel), packed.data_ptr(), padded, terms,
            block.data_ptr(), None if norms is None or first else norms.data_ptr(), piece,
        )  # fmt: skip
        if n == n_directions == padded:
            dots = block[:b]
        else:
            dots[:, first : first + n] = block[:b, :n]
        first += n
    if norms is None:
        assert known_bad is not None
        sq_norms, bad = torch.full((b,), torch.nan), known_bad
    else:
        norms = norms[:b]
        bad = ~(norms <= MAX_SQ_NORM)
        sq_norms = norms.float()
    overflowed = torch.zeros_like(bad)
    if bool(bad.any()):
        suspects = bad.nonzero().squeeze(1)
        overflowed[suspects] = torch.isfinite(torch.cat(tuple(pieces))[suspects]).all(dim=1)
        require_finite(shift=shift, scale=scale)
        dots.index_fill_(0, suspects, 0.0)
        sq_norms.index_fill_(0, suspects, 0.0)
        rows = rows.without(bad)
    if epilogue == "cosines":
        dots = cosines(dots, sq_norms)
    kept_shift = torch.zeros(d) if shift is None else shift.float()
    return Projection(dots, sq_norms, bad, overflowed, tuple(pieces), kept_shift, scale, backend, rows)


def accumulate(z: Tensor, projection: Projection, weights: Tensor, bits: int) -> None:
    """``z += y^T @ weights``. With ``amx`` as many 8-bit terms of both operands count as ``bits`` asks for."""
    terms = -(-bits // 8)
    loaded, rows, level = library(), projection.native, LEVELS[projection.backend]
    b, d, n_directions = rows.panel.b, rows.panel.d, weights.shape[1]
    if b == 0 or n_directions == 0:
        return
    if bool(projection.bad.any()):
        weights = weights.masked_fill(projection.bad[:, None], 0.0)
    if weights.stride(1) != 1:
        weights = weights.contiguous()
    padded = n_directions + -n_directions % 16
    packed = _aligned(loaded.skx_packed_weights_bytes(level, b, padded, terms))
    loaded.skx_pack_weights(
        level, weights.data_ptr(), weights.stride(0), b, n_directions, padded, terms, packed.data_ptr()
    )  # fmt: skip
    turned = z.T if z.stride(0) == 1 else torch.zeros((n_directions, d), dtype=torch.float32)
    run(
        "skx_accumulate", b * d, level, ctypes.addressof(rows.panel), packed.data_ptr(), n_directions, padded,
        terms, turned.data_ptr(), turned.stride(0),
    )  # fmt: skip
    if z.stride(0) != 1:
        z += turned.T


def column_sums(pieces: Sequence[Tensor]) -> Tensor:
    """Sums of the columns over all rows, (d,), float64."""
    rows = _rows(pieces, None, None)
    sums = torch.empty(rows.panel.d, dtype=torch.float64)
    run("skx_column_sums", rows.panel.b * rows.panel.d, ctypes.addressof(rows.panel), sums.data_ptr())
    return sums


def group_sq_norms(projection: Projection, ends: Sequence[int]) -> Tensor:
    """|y|^2 of the groups of columns that end where ``ends`` says: (b, n_groups), float64."""
    rows = projection.native
    bounds = np.asarray(ends, dtype=np.int64)
    squares = torch.empty((rows.panel.b, len(bounds)), dtype=torch.float64)
    run(
        "skx_sq_norms", rows.panel.b * rows.panel.d, ctypes.addressof(rows.panel), bounds.ctypes.data, len(bounds),
        squares.data_ptr(),
    )  # fmt: skip
    return squares


def round_to_terms(directions: Tensor) -> Tensor:
    """Finite float32 ``directions`` rounded to the 16 bits that two bfloat16 terms hold, to nearest."""
    half = 1 << 7  # the lower 8 of float32's 24 bits go
    return directions.view(torch.int32).add(half).bitwise_and_(~(2 * half - 1)).view(torch.float32)


def _rows(pieces: Sequence[Tensor], shift: Tensor | None, scale: Tensor | None) -> _Rows:
    d = pieces[0].shape[1]
    b = sum(map(len, pieces))
    pointers = np.empty(b + -b % _ROOM, np.int64)
    at = 0
    for piece in pieces:
        step, end = piece.stride(0) * piece.element_size(), at + len(piece)
        pointers[at:end] = np.arange(len(piece), dtype=np.int64) * step + piece.data_ptr()
        at = end
    if b:
        pointers[b:] = pointers[b - 1]
    factor = None if scale is None else scale.float().contiguous()
    after: Tensor | None = None
    if shift is None:
        subtrahend = torch.zeros(d, dtype=torch.float32)
    elif factor is None:
        subtrahend = shift.float().contiguous()
    else:
        # As in eager: before the scale, where it rounds once for all rows; a column of scale 0 is what is left.
        wide = factor.double()
        subtrahend = torch.where(wide == 0, 0.0, shift.double() / torch.where(wide == 0, 1.0, wide)).float()
        left = torch.where(factor == 0, shift, 0).float()
        after = left if bool(left.any()) else None
    panel = Panel(
        pointers.ctypes.data,
        b,
        d,
        DTYPES[pieces[0].dtype],
        subtrahend.data_ptr(),
        None if factor is None else factor.data_ptr(),
        None if after is None else after.data_ptr(),
    )
    return _Rows(panel, (*pieces, subtrahend, factor, after), pointers)


def _packed(backend: str, directions: Tensor, scratch: Scratch) -> _Packed:
    """``directions`` packed, once for each version of them."""
    held = scratch.prepared.get(torch.float32)
    if isinstance(held, _Packed) and held.serves(directions, backend):
        return held
    loaded, level, d = library(), LEVELS[backend], directions.shape[0]
    groups = []
    for first in range(0, directions.shape[1], MOST_DIRECTIONS):
        group = directions[:, first : first + MOST_DIRECTIONS].contiguous()
        n = group.shape[1]
        beyond = loaded.skx_beyond_two_terms(group.data_ptr(), group.numel())
        padded, terms = n + -n % 16, 3 if beyond else 2
        packed = _aligned(loaded.skx_packed_directions_bytes(level, d, padded, terms))
        run("skx_pack_directions", d * padded, level, group.data_ptr(), d, n, padded, terms, packed.data_ptr())
        groups.append((n, terms, packed))
    made = _Packed(directions, directions._version, backend, tuple(groups))
    scratch.prepared[torch.float32] = made
    return made


def _aligned(size: int) -> Tensor:
    room = torch.empty(size + _LINE, dtype=torch.uint8)
    start = -room.data_ptr() % _LINE
    return room[start : start + size]
