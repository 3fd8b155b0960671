"""One call of a kernel held against the float64 definition, and naive torch, whose error is the measure.

Tolerance: at most twice the error, against the definition, of naive torch in the same precision. Fresh memory is filled
with NaN while a kernel runs, so that an unwritten result shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from kernel_cases import Case, Problem, Target, problem, project
from torch import Tensor

from skillaxes_kernels import PanelSpec, accumulate, reference, select_backend
from skillaxes_kernels.rounding import HALVES, round_to_terms
from skillaxes_kernels.types import MIN_SQ_NORM, Projection

_ULP = 2.0**-23


def run(target: Target, p: Problem, epilogue: str = "dots") -> Projection:
    with poisoned_memory(), processors(target.processors):
        return project(p.panel, p.directions, p.shift, scale=p.scale, epilogue=epilogue, backend=target.backend)


def check_project(target: Target, case: Case) -> None:
    p = problem(case, target.device)
    seen = run(target, p, case.epilogue)
    assert seen.backend == select_backend(PanelSpec.of(p.panel), target.backend).name
    compare_project(p, seen, case.epilogue, str(case))


def compare_project(p: Problem, seen: Projection, epilogue: str, what: str) -> None:
    """Against the definition, with the error of naive torch as the measure."""
    true = reference.project(p.panel, p.directions, p.shift, scale=p.scale, epilogue=epilogue)
    assert seen.bad.tolist() == true.bad.tolist(), f"{what}: bad rows"
    assert seen.overflowed.tolist() == true.overflowed.tolist(), f"{what}: overflowed rows"
    assert seen.dots.dtype == seen.sq_norms.dtype == torch.float32
    good = ~true.bad
    assert not bool(seen.dots[true.bad].any()) and not bool(seen.sq_norms[true.bad].any()), f"{what}: not zeroed"
    naive_dots, naive_norms = naive_project(p, algebra=seen.backend == "triton" and p.panel.dtype in HALVES)
    lengths = true.sq_norms[good].sqrt()
    if epilogue == "cosines":
        naive_dots = naive_dots / naive_norms.clamp(min=MIN_SQ_NORM).sqrt()[:, None]
        naive_dots[naive_norms < MIN_SQ_NORM] = 0.0
        lengths = torch.ones_like(lengths)
    sizes = lengths[:, None] * p.directions.double().norm(dim=0) + 1e-300
    moved = _moved_shift(p, true.sq_norms[good])
    _within_twice(seen.dots[good] / sizes, naive_dots[good] / sizes, true.dots[good] / sizes, f"{what}: dots", moved)
    norms = true.sq_norms[good].clamp(min=MIN_SQ_NORM)
    # A norm that is rooted and squared again, which is the fast way on a CPU, rounds twice more.
    _within_twice(
        seen.sq_norms[good] / norms,
        naive_norms[good] / norms,
        true.sq_norms[good] / norms,
        f"{what}: norms",
        2 * _ULP + 2 * moved,
    )


def naive_project(p: Problem, algebra: bool) -> tuple[Tensor, Tensor]:
    """float32 torch; ``algebra`` centres after the product, as a product of a half-precision panel must."""
    x = p.panel.float()
    y = x if p.scale is None else x * p.scale
    if p.shift is not None:
        y = y - p.shift
    dots = y @ p.directions
    if algebra and p.shift is not None:
        weights = p.directions if p.scale is None else p.directions * p.scale[:, None]
        dots = x @ weights - p.shift @ p.directions
    return dots, (y * y).sum(dim=1)


def check_accumulate(target: Target, case: Case, bits: int = 24, weight_size: float = 1.0) -> None:
    p = problem(case, target.device)
    g = torch.Generator().manual_seed(case.seed)
    # Columns of a wider matrix of NaN: the row stride is not the number of columns.
    room = torch.full((case.b, case.n + 3), torch.nan)
    room[:, 1 : case.n + 1] = torch.randn(case.b, case.n, generator=g) * weight_size
    weights = room.to(target.device)[:, 1 : case.n + 1]
    before = torch.randn(case.d, case.n, generator=g).to(target.device) * weight_size
    projection, true = run(target, p), reference.project(p.panel, p.directions, p.shift, scale=p.scale)
    z, exact = before.clone(), before.double()
    with poisoned_memory(), processors(target.processors):
        accumulate(z, projection, weights, bits=bits)
    reference.accumulate(exact, true, weights)
    algebra = projection.backend == "triton" and case.dtype in HALVES
    naive = before + naive_accumulate(p, true.bad, weights, algebra, bits, projection.backend)
    # Of an entry's summands, not of the sum: where they cancel, a sum is as exact as its summands are long.
    summands = true.rows.abs().T @ torch.where(true.bad[:, None], 0.0, weights).double().abs() + before.double().abs()
    size = summands.max() + 1e-300
    allowance = 2.0**-15 if algebra and case.dtype == torch.bfloat16 else 0.0
    if case.special:
        # One row outweighs all others: whatever the order of the sum, later rows round at its size, and how well
        # naive torch fares with its own order is luck. A random walk of b roundings is granted.
        allowance += 2.0**-24 * case.b**0.5
    allowance += _moved_shift(p, true.sq_norms[~true.bad])
    _within_twice(z / size, naive / size, exact / size, f"{case}, {bits} bits: z", allowance)
    if target.device == "cpu" and projection.backend != "triton":
        turned = before.T.contiguous().T
        accumulate(turned, projection, weights, bits=bits)
        _within_twice(turned / size, naive / size, exact / size, f"{case}, {bits} bits: z as a transpose", allowance)


def _moved_shift(p: Problem, sq_norms: Tensor) -> float:
    """The most that the rounding of shift / scale adds to a row, relative to the shortest one.

    It moves the shift, by the same for all rows, and chance decides whether naive torch does better on few of them.
    """
    if p.scale is None or p.shift is None or not len(sq_norms):
        return 0.0
    return 2.0**-24 * float(p.shift.double().norm() / sq_norms.min().clamp(min=MIN_SQ_NORM).sqrt())


def naive_accumulate(p: Problem, bad: Tensor, weights: Tensor, algebra: bool, bits: int, backend: str) -> Tensor:
    x = torch.where(bad[:, None], 0.0, p.panel.float())
    weights = torch.where(bad[:, None], 0.0, weights)
    scale = torch.ones(x.shape[1], device=x.device) if p.scale is None else p.scale
    shift = torch.zeros(x.shape[1], device=x.device) if p.shift is None else p.shift
    if algebra:
        weights = weights.to(p.panel.dtype).float() if bits == 8 else weights
        return scale[:, None] * (x.T @ weights) - shift[:, None] * weights.sum(dim=0)
    y = torch.where(bad[:, None], 0.0, x * scale - shift)
    if bits == 16 and backend == "amx":
        y, weights = round_to_terms(y), round_to_terms(weights)
    elif bits == 8 and backend in ("cpu", "amx"):
        y, weights = y.bfloat16().float(), weights.bfloat16().float()
    elif bits == 8 and backend == "triton":
        y, weights = truncated_to_tf32(y), truncated_to_tf32(weights)
    return y.T @ weights


def truncated_to_tf32(x: Tensor) -> Tensor:
    """float32 operands as TF32 units read them: the lowest 13 bits are dropped."""
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def _within_twice(seen: Tensor, naive: Tensor, true: Tensor, what: str, allowance: float = 0.0) -> None:
    if not true.numel():
        return
    assert bool(torch.isfinite(seen).all()), f"{what}: not finite"
    error, bound = float((seen - true).abs().max()), float((naive - true).abs().max())
    assert error <= 2 * bound + _ULP + allowance, f"{what}: error {error:.2e}, naive torch {bound:.2e}"


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh memory is NaN (floats) or the largest value (integers), so that an unwritten result shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def processors(count: int | None) -> Iterator[None]:
    from skillaxes_kernels.backends import triton as fused

    before = fused._PROCESSORS_WITHOUT_CARD
    fused._PROCESSORS_WITHOUT_CARD = count or before
    try:
        yield
    finally:
        fused._PROCESSORS_WITHOUT_CARD = before
