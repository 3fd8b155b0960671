"""The fused kernels from the host's side: directions prepared once, tiles chosen, two launches a panel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from skillaxes_kernels.backends import tiles as tiling
from skillaxes_kernels.rounding import HALVES, n_terms_of, rounded, split
from skillaxes_kernels.types import Projection, Scratch

# Tiles for machines without a card (interpreter, ahead-of-time compilation): an A100's multiprocessors.
_PROCESSORS_WITHOUT_CARD = 108


@dataclass(frozen=True)
class Prepared:
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
class Preparation:
    """What one block of directions, shift and scale became, and what it was made of.

    The sources are kept, so that "is" cannot be fooled by a reused address; ``versions`` tells changes in place.
    """

    sources: tuple[Tensor | None, ...]
    versions: tuple[int | None, ...]
    groups: list[Prepared]
    shift: Tensor | None
    scale: Tensor | None

    def serves(self, sources: tuple[Tensor | None, ...]) -> bool:
        same = all(a is b for a, b in zip(sources, self.sources, strict=True))
        return same and self.versions == _versions(sources)


def project(
    panel: Tensor, directions: Tensor, shift: Tensor | None, scale: Tensor | None, epilogue: str, scratch: Scratch
) -> Projection:
    """See :func:`skillaxes_kernels.project`; arguments were checked there.

    Worst error of a dot over ``|y| |direction|``, measured under the interpreter (no card has run this yet), at
    d = 8,192: 1.5e-8 without a shift, as a float32 product; 7e-8 with ``|shift|`` ten times the spread and 6e-7
    with a hundred times, an eighth of what ``panel @ directions - shift @ directions`` loses in float32 (5e-7 and
    4e-6). float32 panels are centred element by element: 1.5e-8 throughout, outside the tensor cores.
    """
    b = len(panel)
    sq_norms = torch.empty(b, dtype=torch.float32, device=panel.device)
    dots = torch.empty((b, directions.shape[1]), dtype=torch.float32, device=panel.device)
    # Rows of a multiple of 16 bytes: a kernel is compiled anew for pointers of another alignment.
    flags = torch.empty((2, b + -b % 16), dtype=torch.uint8, device=panel.device)[:, :b]
    prepared = _prepared(scratch, panel.dtype, directions, shift, scale)
    first = 0
    for group in prepared.groups:
        block = dots[:, first : first + group.n_directions]
        _project_group(panel, group, prepared.shift, prepared.scale, epilogue, block, sq_norms, flags)
        first += group.n_directions
    bad, overflowed = flags.view(torch.bool)
    return Projection(dots, sq_norms, bad, overflowed, (panel,), prepared.shift, prepared.scale, "triton")


def accumulate(z: Tensor, projection: Projection, weights: Tensor, cheap: bool) -> None:
    """``z += y^T @ weights`` with ``y`` as algebra on the panel; see :func:`skillaxes_kernels.accumulate`.

    Relative error of z for weights of random sign, measured under the interpreter: 1.5e-7 for float16 panels
    without a shift, 2e-6 and 2e-5 with ``|shift|`` ten and a hundred times the spread; at least 1e-5 for bfloat16
    panels, whose two terms hold 16 bits; ``cheap`` 2e-4 and 3e-3.
    """
    from skillaxes_kernels.backends import triton_kernels

    panel, shift, scale = projection.rows, projection.shift, projection.scale
    (b, d), n_directions, half = panel.shape, weights.shape[1], panel.dtype in HALVES
    if b == 0 or n_directions == 0:
        return
    tiles = tiling.accumulate_tiles(b, d, n_directions, panel.dtype, _processors(panel.device))
    weights = weights if weights.stride(1) == 1 else weights.contiguous()
    largest = torch.linalg.vector_norm(weights, torch.inf, dim=0) if half else weights
    out = z if tiles.splits == 1 and z.stride(1) == 1 else z.new_empty((tiles.splits, d, n_directions))
    grid = (-(-d // tiles.columns), tiles.splits, -(-n_directions // tiles.directions))
    with _on(panel.device):
        triton_kernels.accumulate_kernel[grid](
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


def _project_group(
    panel: Tensor,
    group: Prepared,
    shift: Tensor | None,
    scale: Tensor | None,
    epilogue: str,
    dots: Tensor,
    sq_norms: Tensor,
    flags: Tensor,
) -> None:
    from skillaxes_kernels.backends import triton_kernels

    (b, d), n_terms = panel.shape, len(group.weights)
    if b == 0:
        return
    tiles = tiling.project_tiles(b, d, group.n_directions, panel.dtype, n_terms, _processors(panel.device))
    partial_dots = panel.new_empty((tiles.splits, b, tiles.directions), dtype=torch.float32)
    partial_sq_norms = panel.new_empty((tiles.splits, b), dtype=torch.float32)
    with _on(panel.device):
        triton_kernels.project_kernel[(-(-b // tiles.rows), tiles.splits)](
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
        finish = tiling.finish_tiles(group.n_directions)
        triton_kernels.finish_kernel[(-(-b // finish.rows),)](
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


def _prepared(
    scratch: Scratch, dtype: torch.dtype, directions: Tensor, shift: Tensor | None, scale: Tensor | None
) -> Preparation:
    sources = (directions, shift, scale)
    tracked = not any(t is not None and t.is_inference() for t in sources)
    held = scratch.prepared.get(dtype)
    if tracked and held is not None and held.serves(sources):
        return held
    shift, scale = (None if t is None else t.float().contiguous() for t in (shift, scale))
    made = _prepare(dtype, directions, shift, scale)
    fresh = Preparation(sources, _versions(sources) if tracked else (), made, shift, scale)
    if tracked:
        scratch.prepared[dtype] = fresh
    return fresh


def _versions(sources: tuple[Tensor | None, ...]) -> tuple[int | None, ...]:
    return tuple(None if t is None else t._version for t in sources)


def _prepare(dtype: torch.dtype, directions: Tensor, shift: Tensor | None, scale: Tensor | None) -> list[Prepared]:
    """One wait for the device, once for each block of directions."""
    for name, tensor in (("directions", directions), ("shift", shift), ("scale", scale)):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} hold NaN or infinity; finite entries are needed")
    if shift is not None and scale is not None and bool(((scale == 0) & (shift != 0)).any()):
        raise ValueError("a column with scale 0 needs shift 0: the shift is a mean of scaled columns")
    n_terms, limit = 1, tiling.MAX_DIRECTIONS
    if dtype in HALVES and not torch.equal(directions, rounded(directions, dtype, scale)):
        n_terms, limit = n_terms_of(dtype), tiling.MAX_DIRECTIONS // 2
    return [_prepare_group(dtype, group, shift, scale, n_terms) for group in directions.split(limit, dim=1)]


def _prepare_group(
    dtype: torch.dtype, directions: Tensor, shift: Tensor | None, scale: Tensor | None, n_terms: int
) -> Prepared:
    (d, n_directions), padded = directions.shape, tiling.directions_block(directions.shape[1])
    block = directions.new_zeros((d, padded))
    block[:, :n_directions] = directions
    if dtype not in HALVES:
        return Prepared(block[None], None, block.new_ones(padded), n_directions)
    if scale is not None:
        block *= scale[:, None]
    weights, exponents = split(block, dtype, n_terms)
    offsets = None
    if shift is not None:
        factor = 1.0 if scale is None else torch.where(scale == 0, 1.0, scale).double()[:, None]
        shares = weights.double().sum(dim=0) / factor * shift.double()[:, None]  # (d, L)
        columns = tiling.project_tiles(1, d, n_directions, dtype, n_terms, 1).columns
        shares = torch.nn.functional.pad(shares, (0, 0, 0, -d % columns))
        offsets = shares.view(-1, columns, padded).sum(dim=1).float()
    factors = torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), -exponents)
    return Prepared(weights, offsets, factors, n_directions)


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _PROCESSORS_WITHOUT_CARD
    return torch.cuda.get_device_properties(device).multi_processor_count


def _on(device: torch.device) -> AbstractContextManager[object]:
    # Triton launches on the current device, which need not be the panel's.
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
