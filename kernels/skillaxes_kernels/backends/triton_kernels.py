"""The fused kernels, in Triton; the only file of the package that imports it.

Grammar: pointers, shapes, strides, constants, in that order; constants in capitals; rows are int64 before they
are multiplied by a stride; every masked load names its ``other``. Shapes in comments use R, C, L for a block's
rows, columns and directions.

Under ``TRITON_INTERPRET=1`` the same functions run on the CPU.
"""

# The compiler reads these signatures and gives arguments its own types: only constants are annotated.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

# Triton reads module constants as constexpr only; the values are those of skillaxes_kernels.types.
MIN_SQ_NORM = tl.constexpr(1.1754943508222875e-38)
# Arguments that change from panel to panel: a last, shorter panel must not compile the kernel anew.
_VARYING = ["n_rows", "tiles_per_split", "n_splits"]


@triton.jit(do_not_specialize=_VARYING)
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


@triton.jit(do_not_specialize=_VARYING)
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


@triton.jit(do_not_specialize=_VARYING)
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
    (of the terms, not of what they stand for) is taken off the float32 sums right after each tile.

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
