"""Tile sizes of the fused kernels, from shape and dtype alone: a rule that needs no device and no timing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAX_DIRECTIONS = 128  # of one launch; more are served in groups
# Shared memory that two programs can have at once on the smallest card served (99 KiB, compute capability 8.6).
_SHARED_BYTES = 98_304
_MAX_SPLITS = 64


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
