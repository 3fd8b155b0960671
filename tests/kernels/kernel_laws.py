"""The laws of the kernels, as functions of a backend and a device.

The same laws hold for the CPU (``test_cpu.py``), for the fused kernel under Triton's interpreter
(``test_triton_interpreted.py``, in a process of its own: Triton decides at import whether it interprets) and for
the card (``test_gpu.py``); ``mutants.py`` plants errors and expects a law to break.

    TRITON_INTERPRET=1 python tests/kernels/kernel_laws.py triton cpu      prints {law: null or message} as JSON

Every panel lies inside a larger buffer of NaN, and fresh memory is filled with NaN, so that a wrong mask, a wrong
stride or an unwritten result shows.

Tolerance: at most twice the error, against the float64 definition, of naive torch in the same precision.
"""

from __future__ import annotations

import json
import mmap
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skillaxes_kernels import accumulate, make_scratch, project, reference, which
from skillaxes_kernels.rounding import HALVES, rounded
from skillaxes_kernels.types import MIN_SQ_NORM, Projection

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_ULP = 2.0**-23
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


@dataclass(frozen=True)
class Target:
    """What is tested: a backend on a device; ``processors`` steers the tiling where there is no card."""

    backend: str
    device: str = "cpu"
    processors: int | None = None


@dataclass(frozen=True)
class Case:
    """One panel and its directions. ``mean`` is the size of the mean over that of the spread."""

    dtype: torch.dtype
    b: int
    d: int
    n: int
    mean: float = 0.0
    scaled: bool = False
    round_first: bool = True
    epilogue: str = "dots"
    special: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Problem:
    panel: Tensor
    directions: Tensor
    shift: Tensor | None
    scale: Tensor | None


def problem(case: Case, device: str) -> Problem:
    """The panel of a case, inside a buffer of NaN with a row stride of its own."""
    g = torch.Generator().manual_seed(case.seed + 1000 * case.b + case.d)
    rows = torch.randn(case.b, case.d, generator=g, dtype=torch.float64)
    mean = case.mean * torch.randn(case.d, generator=g, dtype=torch.float64)
    rows = rows + mean
    if case.special:
        rows = _with_special_rows(rows, case.dtype)
    room = torch.full((case.b + 2, case.d + 7), torch.nan, dtype=case.dtype)
    room[1 : case.b + 1, 3 : case.d + 3] = rows.to(case.dtype)
    panel = room.to(device)[1 : case.b + 1, 3 : case.d + 3]
    directions = (torch.randn(case.d, case.n, generator=g) / case.d**0.5).to(device)
    scale = (torch.rand(case.d, generator=g) * 3 + 0.1).to(device) if case.scaled else None
    shift = None
    if case.mean:
        shift = mean.float().to(device) * (1.0 if scale is None else scale)
    if case.round_first and case.dtype in HALVES:
        directions = rounded(directions, case.dtype, scale)
    return Problem(panel, directions, shift, scale)


def _with_special_rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max
    rows[0] = 0.0
    rows[2, -1] = torch.nan
    rows[3, 0] = torch.inf
    rows[5, rows.shape[1] // 2] = -torch.inf
    rows[6, 0] = largest  # its square: finite in float16, beyond float32 in the others
    rows[7] = 1e-21  # below the norm that counts as zero, in float32 and bfloat16
    rows[9] = torch.nan
    return rows


# ---------------------------------------------------------------------------------------------------- the laws


def definition(target: Target) -> None:
    """Dots, squared norms and bad rows are those of the definition, for shapes that divide nothing."""
    shapes = [(1, 1, 1), (1, 333, 3), (37, 1, 2), (66, 130, 17), (130, 700, 48), (9, 200, 131)]
    for dtype in DTYPES:
        for place, (b, d, n) in enumerate(shapes):
            for mean in (0.0, 30.0):
                check_project(target, Case(dtype, b, d, n, mean, place % 2 == 1, place % 3 > 0))


def random_shapes(target: Target) -> None:
    """The same for shapes, precisions and options drawn at random (a fixed seed)."""
    g = torch.Generator().manual_seed(7)
    for seed in range(12):
        b, d, n, pick = (int(torch.randint(1, high, (1,), generator=g)) for high in (150, 300, 40, 64))
        case = Case(DTYPES[seed % 3], b, d, n, 10.0 * (pick & 1), bool(pick & 2), bool(pick & 4), seed=seed)
        check_project(target, replace(case, epilogue="cosines" if pick & 8 else "dots"))


def bad_rows(target: Target) -> None:
    """NaN, infinity and overflow are found, told apart, zeroed; rows of zeros have cosine 0."""
    for dtype in DTYPES:
        for epilogue in ("dots", "cosines"):
            for mean in (0.0, 5.0):
                check_project(target, Case(dtype, 21, 90, 6, mean, epilogue=epilogue, special=True))


def cosines(target: Target) -> None:
    """The epilogue divides by the norm of the centred row."""
    for dtype in DTYPES:
        check_project(target, Case(dtype, 33, 150, 20, 8.0, True, False, "cosines"))


def any_tiling(target: Target) -> None:
    """A card of few or many processors (whole rows or split columns) gives the same result."""
    for count in (1, 300):
        card = replace(target, processors=count)
        for dtype in (torch.float16, torch.float32):
            check_project(card, Case(dtype, 130, 300, 20, 20.0))
            check_accumulate(card, Case(dtype, 200, 140, 20, 20.0))


def row_alone(target: Target) -> None:
    """A row's result is the same bytes whatever the other rows of the panel hold, bad ones included."""
    for dtype in DTYPES:
        p = problem(Case(dtype, 70, 300, 24, 3.0), target.device)
        base = run(target, p)
        other = p.panel.clone()
        other[:31] = torch.flip(other[:31], (0,))
        other[32], other[33, 5], other[34] = torch.nan, torch.inf, 0.0
        changed = run(target, replace(p, panel=other))
        assert torch.equal(base.dots[31], changed.dots[31]), f"{dtype}: dots of a row depend on its neighbours"
        assert torch.equal(base.sq_norms[31], changed.sq_norms[31]), f"{dtype}: norm depends on neighbours"
        assert changed.bad.tolist() == [i in (32, 33) for i in range(70)]


def same_bytes(target: Target) -> None:
    """Twice the same call, twice the same bytes; ``z`` too."""
    for dtype in DTYPES:
        p = problem(Case(dtype, 130, 200, 12, 3.0), target.device)
        seen = []
        for _ in range(2):
            projection = run(target, p)
            z = torch.ones((200, 12), device=target.device)
            accumulate(z, projection, projection.dots)
            seen.append((projection.dots, projection.sq_norms, z))
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True)), f"{dtype}: two runs differ"


def far_rows(target: Target) -> None:
    """Rows whose place in memory needs 64 bits are read from there."""
    stride, d = 2**30, 40
    memory = mmap.mmap(-1, 2 * (3 * stride + d), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    panel = torch.frombuffer(memory, dtype=torch.float16).as_strided((4, d), (stride, 1))
    near = problem(Case(torch.float16, 4, d, 5), "cpu")
    panel.copy_(near.panel)
    panel[3, 3] = torch.inf
    projection = run(target, replace(near, panel=panel))
    compare_project(replace(near, panel=panel), projection, "dots", "a panel of 6 GiB")
    z, expected, weights = torch.zeros((d, 2)), torch.zeros((d, 2)), torch.ones((4, 2))
    accumulate(z, projection, weights)
    reference.accumulate(expected, reference.project(panel, near.directions), weights)
    assert torch.allclose(z, expected, rtol=1e-5, atol=1e-5), "accumulate reads far rows from elsewhere"


def second_product(target: Target) -> None:
    """``z += y^T @ weights`` with what z held before; bad rows add nothing, whatever their weight."""
    for dtype in DTYPES:
        for place, (b, d, n) in enumerate([(1, 1, 1), (30, 333, 3), (140, 77, 48), (65, 130, 17), (20, 300, 80)]):
            for mean in (0.0, 30.0):
                check_accumulate(target, Case(dtype, b, d, n, mean, place % 2 == 1, special=b > 60))


def cheap_product(target: Target) -> None:
    """``cheap`` rounds operands, never sums: at most twice the error of products of rounded operands."""
    for dtype in DTYPES:
        p = problem(Case(dtype, 140, 160, 20, 4.0), target.device)
        check_accumulate(target, Case(dtype, 140, 160, 20, 4.0), cheap=True)
        projection = run(target, p)
        z = torch.zeros((160, 20), device=target.device)
        accumulate(z, projection, torch.zeros((140, 20), device=target.device), cheap=True)
        assert not z.any()


def wide_range(target: Target) -> None:
    """Directions and weights far from 1, and columns of very different scale, lose nothing."""
    for dtype in DTYPES:
        for size in (1e-20, 1e12):
            p = problem(Case(dtype, 20, 90, 5, round_first=False), target.device)
            p = replace(p, directions=p.directions * torch.tensor([1, 1e-3, 1, 1e3, 1], device=target.device) * size)
            compare_project(p, run(target, p), "dots", f"{dtype}, directions of size {size}")
            check_accumulate(target, Case(dtype, 70, 90, 5), weight_size=size)


def reused_scratch(target: Target) -> None:
    """One scratch serves shrinking panels and new directions, also when they change in place."""
    for dtype in DTYPES:
        p = problem(Case(dtype, 40, 80, 6, 2.0, round_first=False), target.device)
        scratch = make_scratch(target.device, 40, 80, dtype, target.backend)
        for step in range(4):
            if step == 1:
                p.directions.mul_(2.0).neg_()
            if step == 2:
                p = replace(p, shift=p.shift * 3)  # type: ignore[operator]
            part = replace(p, panel=p.panel[: 40 - 9 * step])
            seen = project(part.panel, part.directions, part.shift, backend=target.backend, scratch=scratch)
            compare_project(part, seen, "dots", f"{dtype}, call {step} with one scratch")


def wide_shift(target: Target) -> None:
    """A float64 shift is rounded to float32, and the rounded one is what every result is made with."""
    for dtype in DTYPES:
        p = problem(Case(dtype, 40, 120, 6, 20.0), target.device)
        assert p.shift is not None
        wide = replace(p, shift=p.shift.double() + 1e-9)
        narrow, seen = run(target, p), run(target, wide)
        assert torch.equal(narrow.dots, seen.dots) and torch.equal(narrow.sq_norms, seen.sq_norms)
        z, expected = (torch.zeros((120, 6), device=target.device) for _ in range(2))
        accumulate(z, seen, seen.dots)
        accumulate(expected, run(target, p), narrow.dots)
        assert torch.equal(z, expected)


def no_rows(target: Target) -> None:
    """An empty panel gives empty results and adds nothing."""
    for dtype in DTYPES:
        p = problem(Case(dtype, 1, 8, 3), target.device)
        seen = run(target, replace(p, panel=p.panel[:0]))
        z = torch.ones((8, 3), device=target.device)
        accumulate(z, seen, torch.zeros((0, 3), device=target.device))
        assert tuple(seen.dots.shape) == (0, 3) and not len(seen.bad) and bool((z == 1).all())


LAWS: dict[str, Callable[[Target], None]] = {
    law.__name__: law
    for law in (
        bad_rows,
        cosines,
        far_rows,
        second_product,
        definition,
        random_shapes,
        row_alone,
        same_bytes,
        wide_range,
        reused_scratch,
        cheap_product,
        any_tiling,
        wide_shift,
        no_rows,
    )
}
CPU_MEMORY_ONLY = ("far_rows",)


# ------------------------------------------------------------------------------------------------- the checking


def run(target: Target, p: Problem, epilogue: str = "dots") -> Projection:
    with poisoned_memory(), processors(target.processors):
        return project(p.panel, p.directions, p.shift, scale=p.scale, epilogue=epilogue, backend=target.backend)


def check_project(target: Target, case: Case) -> None:
    p = problem(case, target.device)
    seen = run(target, p, case.epilogue)
    assert seen.backend == which(target.device, case.dtype, case.d, case.n, target.backend).name
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
    """float32 torch; ``algebra`` centres after the product, as whoever keeps the panel in half precision must."""
    x = p.panel.float()
    y = x if p.scale is None else x * p.scale
    if p.shift is not None:
        y = y - p.shift
    dots = y @ p.directions
    if algebra and p.shift is not None:
        weights = p.directions if p.scale is None else p.directions * p.scale[:, None]
        dots = x @ weights - p.shift @ p.directions
    return dots, (y * y).sum(dim=1)


def check_accumulate(target: Target, case: Case, cheap: bool = False, weight_size: float = 1.0) -> None:
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
        accumulate(z, projection, weights, cheap=cheap)
    reference.accumulate(exact, true, weights)
    algebra = projection.backend == "triton" and case.dtype in HALVES
    naive = before + naive_accumulate(p, true.bad, weights, algebra, cheap, projection.backend)
    size = (exact - before).abs().max() + 1e-300
    allowance = 2.0**-15 if algebra and case.dtype == torch.bfloat16 else 0.0
    if case.special:
        # One row outweighs all others: whatever the order of the sum, later rows round at its size, and how well
        # naive torch fares with its own order is luck. A random walk of b roundings is granted.
        allowance += 2.0**-24 * case.b**0.5
    allowance += _moved_shift(p, true.sq_norms[~true.bad])
    _within_twice(z / size, naive / size, exact / size, f"{case}, cheap={cheap}: z", allowance)
    if projection.backend == "cpu":
        turned = before.T.contiguous().T
        accumulate(turned, projection, weights, cheap=cheap)
        _within_twice(turned / size, naive / size, exact / size, f"{case}, cheap={cheap}: z as a transpose", allowance)


def _moved_shift(p: Problem, sq_norms: Tensor) -> float:
    """What the rounding of shift / scale adds to a row at most, relative to the shortest one.

    It moves the shift, by the same for all rows, and chance decides whether naive torch does better on few of them.
    """
    if p.scale is None or p.shift is None or not len(sq_norms):
        return 0.0
    return 2.0**-24 * float(p.shift.double().norm() / sq_norms.min().clamp(min=MIN_SQ_NORM).sqrt())


def naive_accumulate(p: Problem, bad: Tensor, weights: Tensor, algebra: bool, cheap: bool, backend: str) -> Tensor:
    x = torch.where(bad[:, None], 0.0, p.panel.float())
    weights = torch.where(bad[:, None], 0.0, weights)
    scale = torch.ones(x.shape[1], device=x.device) if p.scale is None else p.scale
    shift = torch.zeros(x.shape[1], device=x.device) if p.shift is None else p.shift
    if algebra:
        weights = weights.to(p.panel.dtype).float() if cheap else weights
        return scale[:, None] * (x.T @ weights) - shift[:, None] * weights.sum(dim=0)
    y = torch.where(bad[:, None], 0.0, x * scale - shift)
    if cheap and backend == "cpu":
        y, weights = y.bfloat16().float(), weights.bfloat16().float()
    elif cheap:
        y, weights = truncated_to_tf32(y), truncated_to_tf32(weights)
    return y.T @ weights


def truncated_to_tf32(x: Tensor) -> Tensor:
    """What TF32 units make of float32 operands: the lowest 13 bits are dropped."""
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def _within_twice(seen: Tensor, naive: Tensor, true: Tensor, what: str, allowance: float = 0.0) -> None:
    if not true.numel():
        return
    assert bool(torch.isfinite(seen).all()), f"{what}: not finite"
    error, bound = float((seen - true).abs().max()), float((naive - true).abs().max())
    assert error <= 2 * bound + _ULP + allowance, f"{what}: error {error:.2e}, naive torch {bound:.2e}"


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh memory is NaN (floats) or the largest value (integers), so that a result nobody wrote shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def processors(count: int | None) -> Iterator[None]:
    from skillaxes_kernels import triton_launch

    before = triton_launch._PROCESSORS_WITHOUT_CARD
    triton_launch._PROCESSORS_WITHOUT_CARD = count or before
    try:
        yield
    finally:
        triton_launch._PROCESSORS_WITHOUT_CARD = before


def teach_interpreter_bfloat16() -> None:
    """Triton 3.9's interpreter multiplies the bit patterns of bfloat16 in ``tl.dot``; widen them (exact) first."""
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain = InterpreterBuilder.create_dot

    def widened(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self, a, b, *rest):  # type: ignore[no-untyped-def]
        with np.errstate(all="ignore"):
            return plain(self, widened(a), widened(b), *rest)

    InterpreterBuilder.create_dot = create_dot


def main() -> None:
    backend, device, *names = sys.argv[1:]
    torch.set_num_threads(1)
    teach_interpreter_bfloat16()
    verdicts: dict[str, str | None] = {}
    for name in names or LAWS:
        try:
            LAWS[name](Target(backend, device))
            verdicts[name] = None
        except Exception as error:
            verdicts[name] = "".join(traceback.format_exception_only(error)).strip()
    print(json.dumps(verdicts))


if __name__ == "__main__":
    main()
