"""Compiled products for CPUs: the library of ``csrc/``, pointers to rows, packed operands.

One pass over a panel in the store's own dtype converts, centres, multiplies and sums, so a panel is never written out
in float32. Two sets of instructions: ``amx`` (matrix tiles of bfloat16 terms that add up to float32, Henry, Tang &
Heinecke 2019) and ``avx512`` (float32). The library is built when the package is installed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from skillaxes_kernels.centring import Centring
from skillaxes_kernels.rounding import round_to_terms
from skillaxes_kernels.types import MAX_SQ_NORM, PanelSpec, Prepared, Projection, cosines

LIBRARY = Path(__file__).parents[1] / "_native.so"  # where hatch_build.py puts it
LEVELS = {"avx512": 1, "amx": 2}  # as entry.c numbers them: each includes what is below it
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as panel.h does
CPU_BACKEND = "SKILLAXES_CPU_BACKEND"  # amx, avx512 or cpu: choose as on a processor on which this is the fastest
ALONE = 1 << 18  # entries of a panel that one thread finishes before a second one has woken up
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
    """The library with its signatures; the reason, as a str, where it is missing or cannot be loaded."""
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
    """The most of :data:`LEVELS` that may run: the offered one, or less where $SKILLAXES_CPU_BACKEND says so."""
    named = os.environ.get(CPU_BACKEND)
    return min(offered(), LEVELS.get(named, 0)) if named else offered()


def unserved_name() -> str | None:
    """Why the backend that $SKILLAXES_CPU_BACKEND names cannot serve; None where it can, or none is named."""
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
    """Call a function of the library on as many threads as torch has.

    They share a counter, from which each takes its next piece of work. ``work`` is the number of entries of the panel.
    """
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


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork copies no threads


@dataclass(frozen=True)
class _Rows:
    """A panel as the library sees it. ``kept`` holds the memory that the pointers point at."""

    panel: Panel
    kept: tuple[Any, ...]
    pointers: np.ndarray

    @classmethod
    def of(cls, pieces: Sequence[Tensor], before: Tensor, scale: Tensor | None, after: Tensor | None) -> _Rows:
        """Pointers to the rows of ``pieces``; the vectors (d,) are float32, contiguous, as in :class:`Centring`."""
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
        panel = Panel(
            pointers.ctypes.data,
            b,
            d,
            DTYPES[pieces[0].dtype],
            before.data_ptr(),
            None if scale is None else scale.data_ptr(),
            None if after is None else after.data_ptr(),
        )
        return cls(panel, (*pieces, before, scale, after), pointers)

    @property
    def entries(self) -> int:
        """b d."""
        return self.panel.b * self.panel.d

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
    """At most MOST_DIRECTIONS directions as the library reads them; with ``amx`` in ``terms`` bfloat16 terms."""

    n_directions: int
    terms: int
    operand: Tensor


@dataclass(frozen=True)
class NativePrepared(Prepared):
    """Packed directions, and the vectors of the centring.

    Attributes
    ----------
    groups : the directions
    before : float32 Tensor of shape (d,), as in :class:`Centring`; zeros for no shift
    scale, after : float32 Tensors of shape (d,) or None, as in :class:`Centring`
    shift : float32 Tensor of shape (d,), the shift itself; zeros for none
    """

    groups: tuple[_Packed, ...]
    before: Tensor
    scale: Tensor | None
    after: Tensor | None
    shift: Tensor


@dataclass(frozen=True)
class NativeProjection(Projection):
    """With the panel as the library sees it, bad rows replaced by zeros."""

    seen: _Rows


@dataclass(frozen=True)
class NativeBackend:
    """The library with one set of instructions, which names the backend."""

    name: str
    automatic_on: Literal["cpu"] = "cpu"
    converts = False

    @property
    def title(self) -> str:
        """The same as the name."""
        return self.name

    def declines(self, spec: PanelSpec) -> str | None:
        """Why it cannot serve ``spec``: the device, the library, the dtype or the processor."""
        if spec.device.type != "cpu":
            return f"the panels are on {spec.device.type}; move them to the CPU"
        return declines(self.name, spec.dtype)

    def round_directions(self, directions: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
        """With ``amx`` rounded to 16 bits: five tile products in ``project``, six for more bits."""
        return round_to_terms(directions) if self.name == "amx" else directions

    def prepare(
        self, spec: PanelSpec, directions: Tensor, shift: Tensor | None, scale: Tensor | None
    ) -> NativePrepared:
        """Directions packed in groups. Both numbers of terms give float32's product."""
        loaded, level, d = library(), LEVELS[self.name], spec.columns
        groups = []
        for first in range(0, directions.shape[1], MOST_DIRECTIONS):
            group = directions[:, first : first + MOST_DIRECTIONS].contiguous()
            n = group.shape[1]
            beyond = loaded.skx_beyond_two_terms(group.data_ptr(), group.numel())
            padded, terms = n + -n % 16, 3 if beyond else 2
            packed = _aligned(loaded.skx_packed_directions_bytes(level, d, padded, terms))
            run("skx_pack_directions", d * padded, level, group.data_ptr(), d, n, padded, terms, packed.data_ptr())
            groups.append(_Packed(n, terms, packed))
        centring = Centring.of(shift, None if scale is None else scale.float(), torch.float32)
        none = torch.zeros(d, dtype=torch.float32)
        return NativePrepared(
            self.name,
            spec,
            directions.shape[1],
            tuple(groups),
            none if centring.before is None else centring.before,
            centring.scale,
            centring.after,
            none if shift is None else shift.to(torch.float32, copy=True),
        )

    def project(
        self, pieces: tuple[Tensor, ...], prepared: Prepared, *, epilogue: str, bad: Tensor | None
    ) -> Projection:
        """Rows that are known to be ``bad`` spare the norms."""
        assert isinstance(prepared, NativePrepared)
        rows = _Rows.of(pieces, prepared.before, prepared.scale, prepared.after)
        b, n_directions = rows.panel.b, prepared.n_directions
        dots = torch.empty((b, n_directions), dtype=torch.float32)
        norms = None if bad is not None else torch.empty(max(b, 1), dtype=torch.float64)
        first = 0
        for group in prepared.groups:
            n, padded = group.n_directions, group.n_directions + -group.n_directions % 16
            block = torch.empty((b + _BLOCK, padded), dtype=torch.float32)
            piece = min(_LARGEST, max(16, -(-b // (2 * torch.get_num_threads())) + 15 & ~15))
            run(
                "skx_project", rows.entries, LEVELS[self.name], ctypes.addressof(rows.panel), group.operand.data_ptr(),
                padded, group.terms, block.data_ptr(), None if norms is None or first else norms.data_ptr(), piece,
            )  # fmt: skip
            if n == n_directions == padded:
                dots = block[:b]
            else:
                dots[:, first : first + n] = block[:b, :n]
            first += n
        if norms is None:
            assert bad is not None
            sq_norms = torch.full((b,), torch.nan)
        else:
            norms = norms[:b]
            bad = ~(norms <= MAX_SQ_NORM)
            sq_norms = norms.float()
        overflowed = torch.zeros_like(bad)
        if bool(bad.any()):
            suspects = bad.nonzero().squeeze(1)
            overflowed[suspects] = torch.isfinite(torch.cat(pieces)[suspects]).all(dim=1)
            dots.index_fill_(0, suspects, 0.0)
            sq_norms.index_fill_(0, suspects, 0.0)
            rows = rows.without(bad)
        if epilogue == "cosines":
            dots = cosines(dots, sq_norms)
        return NativeProjection(
            dots, sq_norms, bad, overflowed, pieces, prepared.shift, prepared.scale, self.name, rows
        )

    def accumulate(self, z: Tensor, projection: Projection, weights: Tensor, *, bits: int) -> None:
        """With ``amx`` as many 8-bit terms of both operands count as ``bits`` asks for."""
        assert isinstance(projection, NativeProjection)
        terms = -(-bits // 8)
        loaded, rows, level = library(), projection.seen, LEVELS[self.name]
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
            "skx_accumulate", rows.entries, level, ctypes.addressof(rows.panel), packed.data_ptr(), n_directions,
            padded, terms, turned.data_ptr(), turned.stride(0),
        )  # fmt: skip
        if z.stride(0) != 1:
            z += turned.T

    def column_sums(self, pieces: tuple[Tensor, ...]) -> Tensor:
        """The same function for both sets of instructions."""
        rows = _Rows.of(pieces, torch.zeros(pieces[0].shape[1], dtype=torch.float32), None, None)
        sums = torch.empty(rows.panel.d, dtype=torch.float64)
        run("skx_column_sums", rows.entries, ctypes.addressof(rows.panel), sums.data_ptr())
        return sums

    def group_sq_norms(self, projection: Projection, groups: Sequence[slice]) -> Tensor:
        """The same function for both sets of instructions."""
        assert isinstance(projection, NativeProjection)
        rows = projection.seen
        ends = np.asarray([group.stop for group in groups], dtype=np.int64)
        squares = torch.empty((rows.panel.b, len(ends)), dtype=torch.float64)
        run(
            "skx_sq_norms", rows.entries, ctypes.addressof(rows.panel), ends.ctypes.data, len(ends),
            squares.data_ptr(),
        )  # fmt: skip
        return squares


AMX = NativeBackend("amx")
AVX512 = NativeBackend("avx512")


def _aligned(size: int) -> Tensor:
    room = torch.empty(size + _LINE, dtype=torch.uint8)
    start = -room.data_ptr() % _LINE
    return room[start : start + size]
