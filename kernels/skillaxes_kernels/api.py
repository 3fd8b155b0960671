"""The public functions: arguments are checked here and trusted by the backends."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skillaxes_kernels.backends import native, reference_backend, torch_backend, triton
from skillaxes_kernels.types import Backend, PanelSpec, Prepared, Projection

# In order of preference: "auto" takes the first that is for the panels' kind of device and does not decline.
BACKENDS: tuple[Backend, ...] = (
    native.AMX,
    native.AVX512,
    torch_backend.ON_CPU,
    triton.FUSED,
    torch_backend.ON_GPU,
    reference_backend.REFERENCE,
)
PANEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_warned: set[str] = set()


class BackendError(ValueError):
    """A backend that is unknown, or that was named and declines, with its reason."""


@dataclass(frozen=True)
class BackendChoice:
    """``name`` is "amx" or "avx512" (compiled for CPUs), "cpu" (plain torch there), "triton" (the fused kernel),
    "torch" (plain torch on a GPU) or "reference". ``reasons`` begin with the device; those that decline follow.
    ``converts`` as in :class:`skillaxes_kernels.types.Backend`.
    """

    name: str
    reasons: tuple[str, ...]
    converts: bool


def select_backend(spec: PanelSpec, backend: str = "auto") -> BackendChoice:
    """The backend for such panels, and the reasons. A named backend is taken or refused, never replaced.

    On a CPU the environment variable SKILLAXES_CPU_BACKEND (amx, avx512 or cpu) has "auto" choose as on a processor on
    which that is the fastest.

    Raises
    ------
    BackendError : ``backend`` is unknown, or was named and declines; the variable names a backend that is not there
    """
    if backend == "auto":
        return _select_automatically(spec)
    reason = _named(backend).declines(spec)
    if reason is not None:
        raise BackendError(f"backend {backend!r} declines: {reason}")
    return BackendChoice(backend, ("named by the caller",), _named(backend).converts)


def prepare(
    spec: PanelSpec,
    directions: Tensor,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Prepared:
    """A block of directions for :func:`project`, prepared once for any number of panels.

    It holds copies and the buffers of one panel: 4 bytes an element of ``spec``, 12 for float64 panels, with plain
    torch; none where a compiled or fused kernel runs.

    Parameters
    ----------
    spec : the panels to come; its ``rows`` are the most that one of them has
    directions : float32 Tensor of shape (d, l)
    shift : Tensor of shape (d,), the provisional mean of ``panel * scale``; None for no centring. float64 is taken
        as it is for float64 panels and rounded to float32 for others.
    scale : Tensor of shape (d,), a factor for each column; None for 1. On CUDA a column of scale 0 needs shift 0.
    backend : a name of ``BACKENDS``, or "auto" for :func:`select_backend`'s choice

    Raises
    ------
    ValueError : shapes, dtypes or devices that do not belong together; shift or scale not finite
    BackendError : ``backend`` was named and declines
    """
    _check_directions(spec, directions, shift, scale)
    spec = spec._replace(device=directions.device)
    return _named(select_backend(spec, backend).name).prepare(spec, directions, shift, scale)


def project(
    panel: Tensor | Sequence[Tensor], prepared: Prepared, *, epilogue: str = "dots", bad: Tensor | None = None
) -> Projection:
    """Dots of the centred rows of a panel with a block of directions, and their squared norms.

    With ``y = panel * scale - shift``, bad rows (see :class:`Projection`) zeroed: ``y @ directions`` and
    ``|y|^2``, summed in float32. A row's result depends on that row and on the panel's shape alone.

    On a CPU the compiled products take panels as they are stored and centre them in float32 on the way to the
    processor's units, entry by entry; plain torch, where they decline, converts into a buffer first.

    On CUDA half-precision panels go to the tensor cores as they are, with directions split into as many
    half-precision terms as hold them (one for a block from :func:`round_directions`). float32 panels keep float32's
    exactness: no TF32, so their products run outside the tensor cores and, on paper, a float32 store in the card's
    memory takes 3.4 (A100), 1.6 (H100) or 2.3 (H200) times as long as its bytes alone. No card has run the fused
    kernel yet.

    Parameters
    ----------
    panel : Tensor of shape (b, d), float16, bfloat16, float32 or float64, unit column stride, any row stride; or
        several whose rows follow each other, which a CPU takes from where they lie. float64 is centred in float64,
        then rounded to float32.
    prepared : from :func:`prepare`
    epilogue : "dots", or "cosines" for ``dots / |y|`` (0 where ``|y|`` is below 1.1e-19: a row of zeros)
    bad : bool Tensor of shape (b,), the bad rows that an earlier pass has found: with ``epilogue="dots"`` norms
        may then be left out (``sq_norms`` holds NaN), which saves plain torch a pass over the panel

    Raises
    ------
    ValueError : a panel that ``prepared`` does not serve, or pieces, ``bad`` or ``epilogue`` that do not fit
    """
    pieces = (panel,) if isinstance(panel, Tensor) else tuple(panel)
    b = _check_panel(pieces, prepared.spec)
    if epilogue not in ("dots", "cosines"):
        raise ValueError(f"epilogue is 'dots' or 'cosines', got {epilogue!r}")
    if bad is not None and (bad.dtype != torch.bool or tuple(bad.shape) != (b,)):
        raise ValueError(f"bad is a bool tensor of shape ({b},), got {bad.dtype} of shape {tuple(bad.shape)}")
    known = bad if epilogue == "dots" else None
    return _named(prepared.backend).project(pieces, prepared, epilogue=epilogue, bad=known)


def accumulate(z: Tensor, projection: Projection, weights: Tensor, *, bits: int = 24) -> None:
    """``z += y^T @ weights`` for the rows of ``projection``, in place.

    Parameters
    ----------
    z : float32 Tensor of shape (d, l'); on a CPU best the transpose of a contiguous one
    projection : from :func:`project`, before the next ``project`` with the same prepared directions
    weights : float32 Tensor of shape (b, l'), zero on rows that do not count
    bits : how many bits of the operands have to count: 24 (float32), 16 or 8; more of them may, sums stay float32.
        AMX takes 24, 16 or 8; AVX-512 24; plain torch on a CPU 8 (bfloat16) or 24, on a GPU 11 (TF32) or 24; the fused
        kernel one half-precision term for 8, two for more.

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
    _named(projection.backend).accumulate(z, projection, weights, bits=bits)


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
    return _named(select_backend(PanelSpec.of(pieces)).name).column_sums(pieces)


def group_sq_norms(projection: Projection, groups: Sequence[slice]) -> Tensor:
    """``|y|^2`` by groups of columns, of shape (b, n_groups), float64; 0 in bad rows.

    Parameters
    ----------
    projection : from :func:`project`, before the next ``project`` with the same prepared directions
    groups : slices that follow each other and cover all columns

    Raises
    ------
    ValueError : groups that leave columns out
    """
    d = projection.shape[1]
    ends = [group.stop for group in groups]
    if [group.start for group in groups] != [0, *ends[:-1]] or not ends or ends[-1] != d:
        raise ValueError(f"groups follow each other from column 0 to column {d}, got {list(groups)}")
    squares = _named(projection.backend).group_sq_norms(projection, groups)
    return squares.masked_fill_(projection.bad[:, None], 0.0)


def round_directions(
    directions: Tensor, panel_dtype: torch.dtype, device: torch.device | str, scale: Tensor | None = None
) -> Tensor:
    """The block nearest to ``directions`` that ``project`` multiplies exactly in one product.

    Parameters
    ----------
    directions : Tensor of shape (d, l)
    panel_dtype : dtype of the panels to come
    device : the device of the panels to come
    scale : Tensor of shape (d,), the per-column factor that ``prepare`` will get, or None

    Returns
    -------
    float32 Tensor of shape (d, l). On a CPU with AMX rounded to 16 bits, for every panel but float64; on other CPUs,
    and for float32 and float64 panels on a GPU, plain float32. On a GPU with half-precision panels ``scale * result``
    is ``scale * directions`` rounded to the panel's dtype (to float32's rounding of the division by ``scale``; 0 where
    ``scale`` is 0). Rounding twice changes nothing.
    """
    spec = PanelSpec(0, len(directions), panel_dtype, torch.device(device))
    return _named(select_backend(spec).name).round_directions(directions.float(), panel_dtype, scale)


def _named(name: str) -> Backend:
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    names = ("auto", *(backend.name for backend in BACKENDS))
    raise BackendError(f"backend {name!r} is unknown; use one of {', '.join(names)}")


def _select_automatically(spec: PanelSpec) -> BackendChoice:
    kind, place = ("cpu", "the CPU") if spec.device.type == "cpu" else ("gpu", spec.device.type)
    if kind == "cpu" and (unserved := native.unserved_name()) is not None:
        raise BackendError(unserved)
    declined: dict[str, str] = {}  # reasons by title
    for backend in BACKENDS:
        if backend.automatic_on != kind:
            continue
        reason = backend.declines(spec)
        if reason is not None:
            declined[backend.title] = reason
            continue
        takes = "" if declined else f" and {backend.title} takes {spec.dtype}"
        for title, why in declined.items():
            if spec.device.type == "cuda" and torch.cuda.is_available() and spec.dtype != torch.float64:
                _warn_once(f"{backend.title} instead of {title}: {why}")
        reasons = (f"{title} declines: {why}" for title, why in declined.items())
        return BackendChoice(backend.name, (f"the panels are on {place}{takes}", *reasons), backend.converts)
    raise BackendError(f"no backend serves {spec.dtype} panels on {place}: {declined}")


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def _check_directions(spec: PanelSpec, directions: Tensor, shift: Tensor | None, scale: Tensor | None) -> None:
    if spec.dtype not in PANEL_DTYPES:
        raise ValueError(f"a panel is of float16, bfloat16, float32 or float64, got {spec.dtype}")
    d = spec.columns
    if directions.ndim != 2 or directions.shape[0] != d or 0 in directions.shape or directions.dtype != torch.float32:
        raise ValueError(
            f"directions are a float32 tensor of shape ({d}, l), d and l at least 1, got {directions.dtype} "
            f"of shape {tuple(directions.shape)}"
        )
    if spec.device not in (directions.device, torch.device(directions.device.type)):
        raise ValueError(f"directions are on {directions.device}, the panels on {spec.device}; move them there")
    for name, vector in (("shift", shift), ("scale", scale)):
        if vector is None:
            continue
        if tuple(vector.shape) != (d,) or vector.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} is float32 of shape ({d},), got {vector.dtype} of shape {tuple(vector.shape)}")
        if vector.device != directions.device:
            raise ValueError(f"{name} is on {vector.device}, the directions on {directions.device}; move it there")
        if not bool(torch.isfinite(vector).all()):
            raise ValueError(f"{name} holds NaN or infinity; finite entries are needed")


def _check_panel(pieces: tuple[Tensor, ...], spec: PanelSpec) -> int:
    """The number of rows b."""
    if not pieces:
        raise ValueError("a panel of no pieces; it needs at least one tensor")
    for piece in pieces:
        if piece.ndim != 2 or piece.dtype not in PANEL_DTYPES:
            raise ValueError(
                f"a panel is a (b, d) tensor of float16, bfloat16, float32 or float64, "
                f"got {piece.dtype} of shape {tuple(piece.shape)}"
            )
        if piece.dtype != pieces[0].dtype or piece.device != pieces[0].device:
            raise ValueError(
                f"the pieces of a panel have one dtype and device, got {piece.dtype} on {piece.device} "
                f"and {pieces[0].dtype} on {pieces[0].device}"
            )
        if piece.dtype != spec.dtype or piece.device != spec.device or piece.shape[1] != spec.columns:
            raise ValueError(
                f"directions were prepared for panels of {spec.columns} columns of {spec.dtype} on {spec.device}, "
                f"got {piece.shape[1]} of {piece.dtype} on {piece.device}; prepare them for these panels"
            )
        if spec.columns > 1 and piece.stride(1) != 1:
            raise ValueError(f"a panel's columns lie next to each other, got column stride {piece.stride(1)}; copy it")
    b = sum(map(len, pieces))
    if b > spec.rows:
        raise ValueError(
            f"directions were prepared for panels of up to {spec.rows} rows, got {b}; "
            f"prepare them for the largest panel"
        )
    return b
