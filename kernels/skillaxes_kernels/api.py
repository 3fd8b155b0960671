"""The public functions: checked here, trusted below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skillaxes_kernels import reference
from skillaxes_kernels.backends import native, torch_backend
from skillaxes_kernels.dispatch import which
from skillaxes_kernels.types import Projection, Scratch

PANEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def make_scratch(
    device: torch.device | str, panel_rows: int, n_features: int, panel_dtype: torch.dtype, backend: str = "auto"
) -> Scratch:
    """The buffers for panels of up to ``panel_rows`` rows, and a place for prepared directions.

    4 bytes an element, 12 for float64 panels; none where a fused kernel runs.
    """
    device = torch.device(device)
    if which(device, panel_dtype, n_features, 1, backend).name not in ("cpu", "torch"):
        return Scratch(None, None)
    rows = torch.empty((panel_rows, n_features), dtype=torch.float32, device=device)
    wide = torch.empty_like(rows, dtype=torch.float64) if panel_dtype == torch.float64 else None
    return Scratch(rows, wide)


def project(
    panel: Tensor | Sequence[Tensor],
    directions: Tensor,
    shift: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    epilogue: str = "dots",
    backend: str = "auto",
    scratch: Scratch | None = None,
    bad: Tensor | None = None,
) -> Projection:
    """Dots of the centred rows of a panel with a block of directions, and their squared norms.

    With ``y = panel * scale - shift``, bad rows (see :class:`Projection`) zeroed: ``y @ directions`` and
    ``|y|^2``, summed in float32. A row's result depends on that row and on the panel's shape alone.

    On a CPU the compiled products take panels as they are stored and centre them in float32 on the way to the
    processor's units, entry by entry; plain torch, where they decline, converts into a scratch first.

    On CUDA half-precision panels go to the tensor cores as they are, with directions split into as many
    half-precision terms as hold them (one for a block from :func:`round_directions`). float32 panels keep float32's
    exactness: no TF32, so their products run outside the tensor cores and, on paper, a float32 store in the card's
    memory takes 3.4 (A100), 1.6 (H100) or 2.3 (H200) times as long as its bytes alone. A column of scale 0 needs
    shift 0 there. No card has run the fused kernel yet.

    Parameters
    ----------
    panel : Tensor of shape (b, d), float16, bfloat16, float32 or float64, unit column stride, any row stride; or
        several whose rows follow each other, which a CPU takes from where they lie. float64 is centred in float64,
        then rounded to float32.
    directions : float32 Tensor of shape (d, l)
    shift : Tensor of shape (d,), the provisional mean of ``panel * scale``; None for no centring. float64 is taken
        as it is for float64 panels and rounded to float32 for others.
    scale : Tensor of shape (d,), a factor for each column; None for 1. On CUDA, directions, shift and scale that are
        the same tensors as in the last call with this scratch, unchanged, are not prepared again: pass the tensors
        themselves, not fresh copies.
    epilogue : "dots", or "cosines" for ``dots / |y|`` (0 where ``|y|`` is below 1.1e-19: a row of zeros)
    backend : see :func:`which`
    scratch : from :func:`make_scratch`, reused from call to call; allocated here when None
    bad : bool Tensor of shape (b,), where an earlier pass has told which rows are bad: with ``epilogue="dots"`` norms
        may then be left out (``sq_norms`` holds NaN), which saves plain torch a pass over the panel

    Raises
    ------
    ValueError : shapes, dtypes or devices that do not belong together; shift or scale not finite
    BackendError : ``backend`` was named and declines
    """
    pieces = (panel,) if isinstance(panel, Tensor) else tuple(panel)
    if not pieces:
        raise ValueError("a panel of no pieces; it needs at least one tensor")
    for piece in pieces:
        _check(piece, directions, shift, scale, epilogue)
        if piece.dtype != pieces[0].dtype or piece.device != pieces[0].device:
            raise ValueError(
                f"the pieces of a panel have one dtype and device, got {piece.dtype} on {piece.device} "
                f"and {pieces[0].dtype} on {pieces[0].device}"
            )
    b, d = sum(map(len, pieces)), pieces[0].shape[1]
    if bad is not None and (bad.dtype != torch.bool or tuple(bad.shape) != (b,)):
        raise ValueError(f"bad is a bool tensor of shape ({b},), got {bad.dtype} of shape {tuple(bad.shape)}")
    choice = which(pieces[0].device, pieces[0].dtype, d, directions.shape[1], backend)
    if choice.name in native.LEVELS:
        scratch = scratch or Scratch(None, None)
        known = bad if epilogue == "dots" else None
        return native.project(choice.name, pieces, directions, shift, scale, epilogue, scratch, known)
    if choice.name == "cpu":
        scratch = scratch or make_scratch("cpu", b, d, pieces[0].dtype, choice.name)
        _require_room(scratch, pieces[0].dtype, b, d)
        return torch_backend.project(
            pieces, directions, shift, scale, epilogue, scratch, bad if epilogue == "dots" else None
        )
    panel = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    if choice.name == "reference":
        return reference.project(panel, directions, shift, scale=scale, epilogue=epilogue)
    scratch = scratch or make_scratch(panel.device, b, d, panel.dtype, choice.name)
    if choice.name == "triton":
        from skillaxes_kernels.backends import triton as fused

        return fused.project(panel, directions, shift, scale, epilogue, scratch)
    _require_room(scratch, panel.dtype, b, d)
    return torch_backend.project(
        (panel,), directions, shift, scale, epilogue, scratch, bad if epilogue == "dots" else None
    )


def accumulate(z: Tensor, projection: Projection, weights: Tensor, *, bits: int = 24) -> None:
    """``z += y^T @ weights`` for the rows of ``projection``, in place.

    Parameters
    ----------
    z : float32 Tensor of shape (d, l'); on a CPU best the transpose of a contiguous one
    projection : from :func:`project`, before its scratch is used again
    weights : float32 Tensor of shape (b, l'), zero on rows that do not count
    bits : how many bits of the operands have to count: 24 (float32), 16 or 8; more of them may, sums stay float32.
        What is made of it: AMX 24, 16 or 8; AVX-512 24; plain torch on a CPU 8 (bfloat16) or 24, on a GPU 11 (TF32) or
        24; the fused kernel on a GPU one half-precision term for 8, two for more.

    Raises
    ------
    ValueError : shapes or dtypes that do not belong together
    """
    b, d = projection.shape
    if bits not in (8, 16, 24):
        raise ValueError(f"bits is 8, 16 or 24, got {bits}")
    if z.dtype != torch.float32 or weights.dtype != torch.float32:
        raise ValueError(f"z and weights are float32, got {z.dtype} and {weights.dtype}")
    if weights.ndim != 2 or len(weights) != b or tuple(z.shape) != (d, weights.shape[1]):
        raise ValueError(
            f"z {tuple(z.shape)} += ({b}, {d})^T @ weights {tuple(weights.shape)} do not fit: "
            f"z needs the shape (d, l') and weights (b, l')"
        )
    if projection.backend == "reference":
        reference.accumulate(z, projection, weights)
    elif projection.backend == "triton":
        from skillaxes_kernels.backends import triton as fused

        fused.accumulate(z, projection, weights, cheap=bits == 8)
    elif projection.backend in native.LEVELS:
        native.accumulate(z, projection, weights, bits)
    else:
        torch_backend.accumulate(z, projection.rows, weights, cheap=bits == 8)


def column_sums(panel: Tensor | Sequence[Tensor]) -> Tensor:
    """Sums of the columns over all rows as they are stored, of shape (d,), float64: of at most 64 rows in float32, then
    in float64 (float64 rows in float64 throughout). NaN and infinity come through.

    Parameters
    ----------
    panel : Tensor of shape (b, d), or several whose rows follow each other, as :func:`project` takes them

    Raises
    ------
    ValueError : no pieces, or other shapes and dtypes
    """
    pieces = (panel,) if isinstance(panel, Tensor) else tuple(panel)
    if not pieces or any(piece.ndim != 2 or piece.dtype not in PANEL_DTYPES for piece in pieces):
        raise ValueError("a panel is one or more (b, d) tensors of float16, bfloat16, float32 or float64")
    if pieces[0].device.type == "cpu" and native.declines("avx512", pieces[0].dtype) is None:
        return native.column_sums(pieces)
    return torch_backend.column_sums(pieces)


def group_sq_norms(projection: Projection, groups: Sequence[slice]) -> Tensor:
    """``|y|^2`` by groups of columns, of shape (b, n_groups), float64; 0 in bad rows.

    Parameters
    ----------
    projection : from :func:`project`, before its scratch is used again
    groups : slices that follow each other and cover all columns

    Raises
    ------
    ValueError : groups that leave columns out
    """
    d = projection.shape[1]
    ends = [group.stop for group in groups]
    if [group.start for group in groups] != [0, *ends[:-1]] or not ends or ends[-1] != d:
        raise ValueError(f"groups follow each other from column 0 to column {d}, got {list(groups)}")
    if projection.backend in native.LEVELS:
        squares = native.group_sq_norms(projection, ends)
    else:
        rows = projection.rows
        if projection.shift is not None:  # the kernel left the rows as they were
            rows = rows.float() if projection.scale is None else rows.float() * projection.scale
            rows = rows - projection.shift.float()
        norms = [torch.linalg.vector_norm(rows[:, group], dim=1).double() for group in groups]
        squares = torch.stack(norms, dim=1).square_()
    return squares.masked_fill_(projection.bad[:, None], 0.0)


def _require_room(scratch: Scratch, dtype: torch.dtype, b: int, d: int) -> None:
    rows = scratch.rows
    wide_enough = dtype != torch.float64 or scratch.wide is not None
    if rows is None or len(rows) < b or rows.shape[1] != d or not wide_enough:
        held = "no buffer" if rows is None else f"a buffer of shape {tuple(rows.shape)}"
        raise ValueError(
            f"scratch holds {held}, the panel is {dtype} of shape {(b, d)}; "
            f"make_scratch for the largest panel, its dtype and this backend"
        )


def _check(panel: Tensor, directions: Tensor, shift: Tensor | None, scale: Tensor | None, epilogue: str) -> None:
    if panel.ndim != 2 or panel.dtype not in PANEL_DTYPES:
        raise ValueError(
            f"a panel is a (b, d) tensor of float16, bfloat16, float32 or float64, "
            f"got {panel.dtype} of shape {tuple(panel.shape)}"
        )
    d = panel.shape[1]
    if panel.shape[1] > 1 and panel.stride(1) != 1:
        raise ValueError(f"a panel's columns lie next to each other, got column stride {panel.stride(1)}; copy it")
    if directions.ndim != 2 or directions.shape[0] != d or 0 in directions.shape or directions.dtype != torch.float32:
        raise ValueError(
            f"directions are a float32 tensor of shape ({d}, l), d and l at least 1, got {directions.dtype} "
            f"of shape {tuple(directions.shape)}"
        )
    for name, vector in (("shift", shift), ("scale", scale)):
        if vector is None:
            continue
        if tuple(vector.shape) != (d,) or vector.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} is float32 of shape ({d},), got {vector.dtype} of shape {tuple(vector.shape)}")
        if vector.device != panel.device:
            raise ValueError(f"{name} is on {vector.device}, the panel on {panel.device}; move it there")
    if directions.device != panel.device:
        raise ValueError(f"directions are on {directions.device}, the panel on {panel.device}; move them there")
    if epilogue not in ("dots", "cosines"):
        raise ValueError(f"epilogue is 'dots' or 'cosines', got {epilogue!r}")
