"""The fused kernels, in Triton: the backend, tiles, launches, the kernels themselves.

Grammar of a kernel: pointers, shapes, strides, constants, in that order; constants in capitals; rows are int64 before
they are multiplied by a stride; every masked load names its ``other``. Shapes in comments use R, C, L for a block's
rows, columns and directions.

Under ``TRITON_INTERPRET=1`` the same functions run on the CPU.
"""

# Triton's compiler reads the signatures of the kernels and gives arguments its own types: only constants are annotated.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from skillaxes_kernels.backends import torch_backend
from skillaxes_kernels.rounding import HALVES, n_terms_of, rounded, split
from skillaxes_kernels.types import MIN_SQ_NORM, PanelSpec, Prepared, Projection

if TYPE_CHECKING:
    import triton.language as tl

MIN_CAPABILITY = (8, 0)
MAX_DIRECTIONS = 128  # of one launch; more are served in groups
# Shared memory that two programs can have at once on the smallest card served (99 KiB, compute capability 8.6).
_SHARED_BYTES = 98_304
_MAX_SPLITS = 64
# Tiles for machines without a card (interpreter, ahead-of-time compilation): an A100's multiprocessors.
_PROCESSORS_WITHOUT_CARD = 108
# Arguments that change from panel to panel: a last, shorter panel must not compile the kernel anew.
_VARYING = ["n_rows", "tiles_per_split", "n_splits"]


@dataclass(frozen=True)
class Group:
    """A group of at most 128 directions as the kernel reads them.

    weights : (terms, d, L) in the panel's dtype, ``scale * directions * 2^exponents``; L is padded with zeros
    offsets : float32 (tiles, L), each column tile's share of ``shift @ directions``, or None
    factors : float32 (L,), ``2^-exponents``
    """

    weights: Tensor
    offsets: Tensor | None
    factors: Tensor
    n_directions: int


@dataclass(frozen=True)
class TritonPrepared(Prepared):
    """Directions by group; shift and scale in float32, of shape (d,), or None."""

    groups: tuple[Group, ...]
    shift: Tensor | None
    scale: Tensor | None


@dataclass(frozen=True)
class TritonBackend:
    """The fused kernels for cards of compute capability 8.0 or newer."""

    name = "triton"
    title = "the fused kernel"
    automatic_on: Literal["gpu"] = "gpu"
    converts = False

    def declines(self, spec: PanelSpec) -> str | None:
        """Why it cannot serve ``spec``: dtype, device, card, Triton, C compiler, or a trial launch that failed."""
        if spec.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            return f"it takes float16, bfloat16 and float32 panels, not {spec.dtype}"
        device = spec.device
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
            return None
        if device.type != "cuda":
            return f"the panels are on {device.type}, it needs CUDA"
        if not torch.cuda.is_available():
            return "torch sees no CUDA device; it needs a driver and a CUDA build of torch"
        return _card_declines(torch.cuda.current_device() if device.index is None else device.index)

    def round_directions(self, directions: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
        """Rounded to half precision for half-precision panels, so that one term holds them."""
        return rounded(directions, dtype, scale) if dtype in HALVES else directions

    def prepare(
        self, spec: PanelSpec, directions: Tensor, shift: Tensor | None, scale: Tensor | None
    ) -> TritonPrepared:
        """Directions split into as few half-precision terms as hold them; one wait for the device.

        Raises
        ------
        ValueError : NaN or infinity in ``directions``, or a column of scale 0 whose shift is not 0
        """
        if not bool(torch.isfinite(directions).all()):
            raise ValueError("directions hold NaN or infinity; finite entries are needed")
        shift, scale = (None if t is None else t.to(torch.float32, copy=True).contiguous() for t in (shift, scale))
        if shift is not None and scale is not None and bool(((scale == 0) & (shift != 0)).any()):
            raise ValueError("a column with scale 0 needs shift 0: the shift is a mean of scaled columns")
        n_terms, limit = 1, MAX_DIRECTIONS
        if spec.dtype in HALVES and not torch.equal(directions, rounded(directions, spec.dtype, scale)):
            n_terms, limit = n_terms_of(spec.dtype), MAX_DIRECTIONS // 2
        groups = [_prepare_group(spec.dtype, part, shift, scale, n_terms) for part in directions.split(limit, dim=1)]
        return TritonPrepared(self.name, spec, directions.shape[1], tuple(groups), shift, scale)

    def project(
        self, pieces: tuple[Tensor, ...], prepared: Prepared, *, epilogue: str, bad: Tensor | None
    ) -> Projection:
        """Norms and bad rows come with the same pass over the panel, so ``bad`` spares nothing.

        Worst error of a dot over ``|y| |direction|``, measured under the interpreter (no card has run this yet), at
        d = 8,192: 1.5e-8 without a shift, as a float32 product; 7e-8 with ``|shift|`` ten times the spread and 6e-7
        with a hundred times, an eighth of what ``panel @ directions - shift @ directions`` loses in float32 (5e-7 and
        4e-6). float32 panels are centred element by element: 1.5e-8 throughout, outside the tensor cores.
        """
        assert isinstance(prepared, TritonPrepared)
        panel = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        b = len(panel)
        sq_norms = torch.empty(b, dtype=torch.float32, device=panel.device)
        dots = torch.empty((b, prepared.n_directions), dtype=torch.float32, device=panel.device)
        # Rows of a multiple of 16 bytes: a kernel is compiled anew for pointers of another alignment.
        flags = torch.empty((2, b + -b % 16), dtype=torch.uint8, device=panel.device)[:, :b]
        first = 0
        for group in prepared.groups:
            block = dots[:, first : first + group.n_directions]
            _project_group(panel, group, prepared.shift, prepared.scale, epilogue, block, sq_norms, flags)
            first += group.n_directions
        bad, overflowed = flags.view(torch.bool)
        return Projection(dots, sq_norms, bad, overflowed, (panel,), prepared.shift, prepared.scale, self.name)

    def accumulate(self, z: Tensor, projection: Projection, weights: Tensor, *, bits: int) -> None:
        """``y`` as algebra on the panel: it is never written out.

        Relative error of z for weights of random sign, measured under the interpreter: 1.5e-7 for float16 panels
        without a shift, 2e-6 and 2e-5 with ``|shift|`` ten and a hundred times the spread; at least 1e-5 for bfloat16
        panels, whose two terms hold 16 bits; 2e-4 and 3e-3 with 8 bits.
        """
        cheap = bits == 8
        panel, shift, scale = projection.rows, projection.shift, projection.scale
        (b, d), n_directions, half = panel.shape, weights.shape[1], panel.dtype in HALVES
        if b == 0 or n_directions == 0:
            return
        tiles = accumulate_tiles(b, d, n_directions, panel.dtype, _processors(panel.device))
        weights = weights if weights.stride(1) == 1 else weights.contiguous()
        largest = torch.linalg.vector_norm(weights, torch.inf, dim=0) if half else weights
        out = z if tiles.splits == 1 and z.stride(1) == 1 else z.new_empty((tiles.splits, d, n_directions))
        grid = (-(-d // tiles.columns), tiles.splits, -(-n_directions // tiles.directions))
        with _on(panel.device):
            accumulate_kernel[grid](
                panel,
                projection.bad.view(torch.uint8) if half else projection.bad.int(),
                weights,
                largest,
                panel if shift is None else shift,
                panel if scale is None else scale,
                out,
                b,
                d,
                n_directions,
                tiles.tiles_per_split,
                panel.stride(0),
                weights.stride(0),
                0 if out is z else out.stride(0),
                out.stride(-2),
                BLOCK_ROWS=tiles.rows,
                BLOCK_COLUMNS=tiles.columns,
                BLOCK_DIRECTIONS=tiles.directions,
                TERMS=1 if cheap else 2,
                HALF=half,
                HAS_SHIFT=shift is not None,
                HAS_SCALE=scale is not None,
                ADD=out is z,
                FLOAT32_PRECISION="tf32" if cheap else "ieee",
                num_warps=tiles.num_warps,
                num_stages=tiles.num_stages,
                enable_fp_fusion=True,
            )
        if out is not z:
            z += out.sum(dim=0)

    def column_sums(self, pieces: tuple[Tensor, ...]) -> Tensor:
        """By plain torch."""
        return torch_backend.column_sums(pieces)

    def group_sq_norms(self, projection: Projection, groups: Sequence[slice]) -> Tensor:
        """By plain torch."""
        return torch_backend.group_sq_norms(projection, groups)


FUSED = TritonBackend()


@cache
def _card_declines(index: int) -> str | None:
    """The answer for one card, found once a process: capability, Triton, compiler, and one real launch."""
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
    """The C compiler that Triton would call, or None: what $CC names, and nothing else where it names something."""
    named = os.environ.get("CC")
    return shutil.which("gcc") or shutil.which("clang") if named is None else shutil.which(named)


def _launch_once(device: torch.device) -> None:
    panel = torch.ones((2, 16), dtype=torch.float16, device=device)
    prepared = FUSED.prepare(PanelSpec.of(panel), panel[:1].T.float(), None, None)
    seen = FUSED.project((panel,), prepared, epilogue="dots", bad=None)
    if seen.dots.tolist() != [[16.0], [16.0]]:
        raise RuntimeError(f"16 ones times 16 ones gave {seen.dots.tolist()}")


class _Kernel:
    """A function in Triton's language, launched as ``kernel[grid](...)``. Triton is imported at the first launch."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    @cached_property
    def compiled(self) -> Any:
        """The function after ``triton.jit``."""
        import triton

        _load_language()
        return triton.jit(self._function, do_not_specialize=_VARYING)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.compiled[grid]


@cache
def _load_language() -> None:
    # Triton looks for names of a kernel among those of its module, and takes constants there as constexpr only.
    global tl, MIN_SQ_NORM
    import triton.language

    tl = triton.language
    MIN_SQ_NORM = tl.constexpr(MIN_SQ_NORM)


@dataclass(frozen=True)
class Tiles:
    """One launch: block sizes, how many parts the summed axis is split into, and the compiler's two knobs."""

    rows: int
    columns: int
    directions: int
    splits: int
    tiles_per_split: int
    num_warps: int
    num_stages: int


def project_tiles(
    n_rows: int, n_columns: int, n_directions: int, dtype: torch.dtype, n_terms: int, n_processors: int
) -> Tiles:
    """Tall panels fill the card by blocks of rows; short ones split the columns until they do.

    Each program reads the whole block of directions of its columns, so blocks of 128 rows halve that traffic;
    16 directions are too few for it to count.
    float32 products run outside the tensor cores, with the operands in registers: smaller tiles.
    Columns that are no multiple of 16 are read entry by entry, each with its own address and mask: half the rows.
    The sizes are the largest that compile without spills for compute capability 8.0, 9.0 and 10.0.
    """
    directions = directions_block(n_directions)
    aligned = n_columns % 16 == 0
    if dtype == torch.float32:
        rows, columns = (64 if aligned else 32), 32
    else:
        rows, columns = (128 if aligned and n_rows > 64 and directions > 16 else 64), 64
    stage = (rows + n_terms * directions) * columns * dtype.itemsize
    splits, per_split = _split(_blocks(n_rows, rows), _blocks(n_columns, columns), 4 * n_processors)
    return Tiles(rows, columns, directions, splits, per_split, 8, _stages(stage))


def finish_tiles(n_directions: int) -> Tiles:
    """The second stage: few bytes, so small blocks that spread over the card."""
    return Tiles(8, 256, directions_block(n_directions), 1, 1, 4, 2)


def accumulate_tiles(n_rows: int, n_columns: int, n_directions: int, dtype: torch.dtype, n_processors: int) -> Tiles:
    """Blocks of columns fill the card; where the columns are few, the rows are split.

    A split costs a copy of z, so there is one only where processors would stand idle.
    At most 64 directions a program: its sums and both terms of the weights live in registers.
    """
    directions = min(64, directions_block(n_directions))
    if dtype == torch.float32:
        rows, columns = 32, 64
    else:
        rows, columns = (64 if directions < 64 else 32), 128
    stage = rows * (columns * dtype.itemsize + directions * 4)
    groups = _blocks(n_columns, columns) * _blocks(n_directions, directions)
    splits, per_split = _split(groups, _blocks(n_rows, rows), n_processors)
    return Tiles(rows, columns, directions, splits, per_split, 8, _stages(stage))


def directions_block(n_directions: int) -> int:
    """The padded number of directions: a power of two from 16, the least a tensor core takes, to 128."""
    block = 16
    while block < min(n_directions, MAX_DIRECTIONS):
        block *= 2
    return block


def _split(n_programs: int, n_tiles: int, wanted_programs: int) -> tuple[int, int]:
    wanted = _blocks(wanted_programs, max(n_programs, 1))
    splits = max(1, min(wanted, n_tiles, _MAX_SPLITS))
    per_split = max(1, _blocks(n_tiles, splits))
    return max(1, _blocks(n_tiles, per_split)), per_split


def _stages(stage_bytes: int) -> int:
    return max(2, min(4, _SHARED_BYTES // stage_bytes))


def _blocks(n: int, block: int) -> int:
    return -(-n // block)


def _project_group(
    panel: Tensor,
    group: Group,
    shift: Tensor | None,
    scale: Tensor | None,
    epilogue: str,
    dots: Tensor,
    sq_norms: Tensor,
    flags: Tensor,
) -> None:
    (b, d), n_terms = panel.shape, len(group.weights)
    if b == 0:
        return
    tiles = project_tiles(b, d, group.n_directions, panel.dtype, n_terms, _processors(panel.device))
    partial_dots = panel.new_empty((tiles.splits, b, tiles.directions), dtype=torch.float32)
    partial_sq_norms = panel.new_empty((tiles.splits, b), dtype=torch.float32)
    with _on(panel.device):
        project_kernel[(-(-b // tiles.rows), tiles.splits)](
            panel,
            group.weights,
            panel if group.offsets is None else group.offsets,
            panel if shift is None else shift,
            panel if scale is None else scale,
            partial_dots,
            partial_sq_norms,
            b,
            d,
            tiles.tiles_per_split,
            panel.stride(0),
            group.weights.stride(0),
            BLOCK_ROWS=tiles.rows,
            BLOCK_COLUMNS=tiles.columns,
            BLOCK_DIRECTIONS=tiles.directions,
            TERMS=n_terms,
            HALF=panel.dtype in HALVES,
            HAS_SHIFT=shift is not None,
            HAS_SCALE=scale is not None,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
            enable_fp_fusion=True,
        )
        finish = finish_tiles(group.n_directions)
        finish_kernel[(-(-b // finish.rows),)](
            panel,
            partial_dots,
            partial_sq_norms,
            group.factors,
            dots,
            sq_norms,
            flags[0],
            flags[1],
            b,
            d,
            group.n_directions,
            tiles.splits,
            panel.stride(0),
            dots.stride(0),
            BLOCK_ROWS=finish.rows,
            BLOCK_COLUMNS=finish.columns,
            BLOCK_DIRECTIONS=finish.directions,
            COSINES=epilogue == "cosines",
            num_warps=finish.num_warps,
            enable_fp_fusion=True,
        )


def _prepare_group(
    dtype: torch.dtype, directions: Tensor, shift: Tensor | None, scale: Tensor | None, n_terms: int
) -> Group:
    (d, n_directions), padded = directions.shape, directions_block(directions.shape[1])
    block = directions.new_zeros((d, padded))
    block[:, :n_directions] = directions
    if dtype not in HALVES:
        return Group(block[None], None, block.new_ones(padded), n_directions)
    if scale is not None:
        block *= scale[:, None]
    weights, exponents = split(block, dtype, n_terms)
    offsets = None
    if shift is not None:
        factor = 1.0 if scale is None else torch.where(scale == 0, 1.0, scale).double()[:, None]
        shares = weights.double().sum(dim=0) / factor * shift.double()[:, None]  # (d, L)
        columns = project_tiles(1, d, n_directions, dtype, n_terms, 1).columns
        shares = torch.nn.functional.pad(shares, (0, 0, 0, -d % columns))
        offsets = shares.view(-1, columns, padded).sum(dim=1).float()
    factors = torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), -exponents)
    return Group(weights, offsets, factors, n_directions)


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _PROCESSORS_WITHOUT_CARD
    return torch.cuda.get_device_properties(device).multi_processor_count


def _on(device: torch.device) -> AbstractContextManager[object]:
    # Triton launches on the current device, which need not be the panel's.
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@_Kernel
def project_kernel(
    panel_ptr,
    weights_ptr,
    offsets_ptr,
    shift_ptr,
    scale_ptr,
    partial_dots_ptr,
    partial_sq_norms_ptr,
    n_rows,
    n_columns,
    tiles_per_split,
    stride_panel_row,
    stride_weights_term,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DIRECTIONS: tl.constexpr,
    TERMS: tl.constexpr,
    HALF: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
):
    """Dots and squared norms of a block of rows over one split of the columns.

    Half-precision panels go to the tensor cores as they are, and every tile's share of ``shift @ weights`` is
    taken off the float32 sums right after that tile, so that the sums never grow to the size of the mean.
    float32 panels are centred element by element and multiplied without TF32.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # (R,)
    split = tl.program_id(1)
    directions = tl.arange(0, BLOCK_DIRECTIONS)  # (L,)
    row_mask = rows < n_rows
    dots = tl.zeros((BLOCK_ROWS, BLOCK_DIRECTIONS), dtype=tl.float32)
    sq_norms = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
    first_tile = split * tiles_per_split
    last_tile = tl.minimum(first_tile + tiles_per_split, tl.cdiv(n_columns, BLOCK_COLUMNS))
    for tile in range(first_tile, last_tile):
        columns = tile * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)  # (C,)
        column_mask = columns < n_columns
        x = tl.load(
            panel_ptr + rows[:, None] * stride_panel_row + columns[None, :],
            mask=row_mask[:, None] & column_mask[None, :],
            other=0.0,
        )  # (R, C)
        y = x.to(tl.float32)
        if HAS_SCALE:
            y *= tl.load(scale_ptr + columns, mask=column_mask, other=0.0)[None, :]
        if HAS_SHIFT:
            y -= tl.load(shift_ptr + columns, mask=column_mask, other=0.0)[None, :]
        sq_norms += tl.sum(y * y, axis=1)
        for term in tl.static_range(TERMS):
            w = tl.load(
                weights_ptr + term * stride_weights_term + columns[:, None] * BLOCK_DIRECTIONS + directions[None, :],
                mask=column_mask[:, None],
                other=0.0,
            )  # (C, L)
            dots = tl.dot(x, w, dots) if HALF else tl.dot(y, w, dots, input_precision="ieee")
        if HALF and HAS_SHIFT:
            dots -= tl.load(offsets_ptr + tile * BLOCK_DIRECTIONS + directions)[None, :]
    slot = split.to(tl.int64) * n_rows + rows  # (R,)
    tl.store(partial_dots_ptr + slot[:, None] * BLOCK_DIRECTIONS + directions[None, :], dots, mask=row_mask[:, None])
    tl.store(partial_sq_norms_ptr + slot, sq_norms, mask=row_mask)


@_Kernel
def finish_kernel(
    panel_ptr,
    partial_dots_ptr,
    partial_sq_norms_ptr,
    factors_ptr,
    dots_ptr,
    sq_norms_ptr,
    bad_ptr,
    overflowed_ptr,
    n_rows,
    n_columns,
    n_directions,
    n_splits,
    stride_panel_row,
    stride_dots_row,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DIRECTIONS: tl.constexpr,
    COSINES: tl.constexpr,
):
    """Sum of the splits in their order, bad rows, epilogue.

    A bad row shows in its squared norm; only then are its entries looked at again, to tell NaN and infinity
    from finite entries whose squares float32 cannot hold.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # (R,)
    directions = tl.arange(0, BLOCK_DIRECTIONS)  # (L,)
    row_mask = rows < n_rows
    dots = tl.zeros((BLOCK_ROWS, BLOCK_DIRECTIONS), dtype=tl.float32)
    sq_norms = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
    slot = rows
    for _ in range(n_splits):
        dots += tl.load(
            partial_dots_ptr + slot[:, None] * BLOCK_DIRECTIONS + directions[None, :],
            mask=row_mask[:, None],
            other=0.0,
        )
        sq_norms += tl.load(partial_sq_norms_ptr + slot, mask=row_mask, other=0.0)
        slot += n_rows

    bad = ~(sq_norms < float("inf"))  # NaN compares false
    unfinite = tl.zeros((BLOCK_ROWS,), dtype=tl.int32)
    if tl.max(bad.to(tl.int32), axis=0) > 0:
        for start in range(0, n_columns, BLOCK_COLUMNS):
            columns = start + tl.arange(0, BLOCK_COLUMNS)  # (C,)
            x = tl.load(
                panel_ptr + rows[:, None] * stride_panel_row + columns[None, :],
                mask=(bad & row_mask)[:, None] & (columns < n_columns)[None, :],
                other=0.0,
            ).to(tl.float32)
            unfinite = tl.maximum(unfinite, tl.max((~(tl.abs(x) < float("inf"))).to(tl.int32), axis=1))

    dots *= tl.load(factors_ptr + directions)[None, :]
    if COSINES:
        length = tl.sqrt_rn(tl.maximum(sq_norms, MIN_SQ_NORM))
        dots = tl.where((sq_norms < MIN_SQ_NORM)[:, None], 0.0, dots / length[:, None])
    dots = tl.where(bad[:, None], 0.0, dots)
    tl.store(
        dots_ptr + rows[:, None] * stride_dots_row + directions[None, :],
        dots,
        mask=row_mask[:, None] & (directions < n_directions)[None, :],
    )
    tl.store(sq_norms_ptr + rows, tl.where(bad, 0.0, sq_norms), mask=row_mask)
    tl.store(bad_ptr + rows, bad.to(tl.uint8), mask=row_mask)
    tl.store(overflowed_ptr + rows, (bad & (unfinite == 0)).to(tl.uint8), mask=row_mask)


@_Kernel
def accumulate_kernel(
    panel_ptr,
    bad_ptr,
    weights_ptr,
    largest_ptr,
    shift_ptr,
    scale_ptr,
    out_ptr,
    n_rows,
    n_columns,
    n_directions,
    tiles_per_split,
    stride_panel_row,
    stride_weights_row,
    stride_out_split,
    stride_out_row,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DIRECTIONS: tl.constexpr,
    TERMS: tl.constexpr,
    HALF: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    ADD: tl.constexpr,
    FLOAT32_PRECISION: tl.constexpr,
):
    """``y^T @ weights`` for a block of columns over one split of the rows; bad rows are read as zeros.

    Half-precision panels: each weight is split into one or two half-precision terms in registers, under a power
    of two for each direction; with ``y = (x - centre) * scale``, ``centre`` times the sum of the tile's weights
    (of the terms, not of the weights that they approximate) is taken off the float32 sums right after each tile.

    float32 panels: ``bad`` holds 32-bit integers. Triton 3.7 takes the narrowest load behind an operand, those of
    its masks included, for the width the operand was widened from; after flags of one byte it holds TF32 to be
    exact and, in spite of "ieee", multiplies float32 panels in the tensor cores of compute capability 10.
    """
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)  # (C,)
    split = tl.program_id(1)
    directions = tl.program_id(2) * BLOCK_DIRECTIONS + tl.arange(0, BLOCK_DIRECTIONS)  # (L,)
    column_mask = columns < n_columns
    direction_mask = directions < n_directions
    if HAS_SCALE:
        scale = tl.load(scale_ptr + columns, mask=column_mask, other=0.0)  # (C,)
    if HAS_SHIFT:
        centre = tl.load(shift_ptr + columns, mask=column_mask, other=0.0)  # (C,)
        if HAS_SCALE:
            centre = tl.div_rn(centre, tl.where(scale == 0.0, 1.0, scale))
    if HALF:
        # 2^12 / 2^floor(log2(largest)) and its inverse, by their exponent bits
        largest = tl.load(largest_ptr + directions, mask=direction_mask, other=1.0)  # (L,)
        field = (largest.to(tl.int32, bitcast=True) >> 23) & 255
        field = tl.minimum(tl.maximum(field, 40), 226)
        up = ((266 - field) << 23).to(tl.float32, bitcast=True)
        down = ((field - 12) << 23).to(tl.float32, bitcast=True)
    out = tl.zeros((BLOCK_COLUMNS, BLOCK_DIRECTIONS), dtype=tl.float32)
    first_tile = split * tiles_per_split
    last_tile = tl.minimum(first_tile + tiles_per_split, tl.cdiv(n_rows, BLOCK_ROWS))
    for tile in range(first_tile, last_tile):
        rows = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)  # (R,)
        row_mask = rows < n_rows
        good = row_mask & (tl.load(bad_ptr + rows, mask=row_mask, other=1) == 0)
        x = tl.load(
            panel_ptr + rows[:, None] * stride_panel_row + columns[None, :],
            mask=good[:, None] & column_mask[None, :],
            other=0.0,
        )  # (R, C)
        w = tl.load(
            weights_ptr + rows[:, None] * stride_weights_row + directions[None, :],
            mask=good[:, None] & direction_mask[None, :],
            other=0.0,
        )  # (R, L)
        if HALF:
            w *= up[None, :]
            first = w.to(panel_ptr.dtype.element_ty)
            out = tl.dot(tl.trans(x), first, out)
            used = first.to(tl.float32)
            if TERMS > 1:
                second = (w - used).to(panel_ptr.dtype.element_ty)
                out = tl.dot(tl.trans(x), second, out)
                used += second.to(tl.float32)
            if HAS_SHIFT:
                out -= centre[:, None] * tl.sum(used, axis=0)[None, :]
        else:
            y = x
            if HAS_SHIFT:
                y -= centre[None, :]  # rows that do not count have weight 0
            out = tl.dot(tl.trans(y), w, out, input_precision=FLOAT32_PRECISION)
    if HALF:
        out *= down[None, :]
    if HAS_SCALE:
        out *= scale[:, None]
    place = (
        out_ptr
        + split.to(tl.int64) * stride_out_split
        + columns.to(tl.int64)[:, None] * stride_out_row
        + directions[None, :]
    )
    mask = column_mask[:, None] & direction_mask[None, :]
    if ADD:
        out += tl.load(place, mask=mask, other=0.0)
    tl.store(place, out, mask=mask)
