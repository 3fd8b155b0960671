"""The laws of the kernels, as functions of a backend and a device.

The same laws hold for the CPU (``test_cpu.py``), for the fused kernel under Triton's interpreter
(``test_triton_interpreted.py``, in a process of its own: Triton decides at import whether it interprets) and for
the card (``test_gpu.py``); ``mutants.py`` plants errors and expects a law to break.

    TRITON_INTERPRET=1 python tests/kernels/kernel_laws.py triton cpu      prints {law: null or message} as JSON

The panels are those of ``kernel_cases.py``, the tolerance is that of ``kernel_checks.py``.
"""

from __future__ import annotations

import json
import mmap
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace

import torch
from kernel_cases import DTYPES, Case, Target, problem
from kernel_checks import check_accumulate, check_project, compare_project, run

from skillaxes_kernels import PanelSpec, accumulate, prepare, project, reference

_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


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


def fewer_bits(target: Target) -> None:
    """``bits`` rounds operands, never sums: at most twice the error of products of rounded operands."""
    for dtype in DTYPES:
        p = problem(Case(dtype, 140, 160, 20, 4.0), target.device)
        for bits in (8, 16):
            check_accumulate(target, Case(dtype, 140, 160, 20, 4.0), bits)
        projection = run(target, p)
        z = torch.zeros((160, 20), device=target.device)
        accumulate(z, projection, torch.zeros((140, 20), device=target.device), bits=8)
        assert not z.any()


def wide_range(target: Target) -> None:
    """Directions and weights far from 1, and columns of very different scale, lose nothing."""
    for dtype in DTYPES:
        for size in (1e-20, 1e12):
            p = problem(Case(dtype, 20, 90, 5, round_first=False), target.device)
            p = replace(p, directions=p.directions * torch.tensor([1, 1e-3, 1, 1e3, 1], device=target.device) * size)
            compare_project(p, run(target, p), "dots", f"{dtype}, directions of size {size}")
            check_accumulate(target, Case(dtype, 70, 90, 5), weight_size=size)


def prepared_once(target: Target) -> None:
    """Prepared directions serve panel after panel, shorter ones too, as they were when they were prepared.

    Directions, shift and scale that change in place afterwards count for what is prepared anew.
    """
    for dtype in DTYPES:
        p = problem(Case(dtype, 40, 80, 6, 2.0, scaled=True, round_first=False), target.device)
        assert p.shift is not None and p.scale is not None
        before = replace(p, directions=p.directions.clone(), shift=p.shift.clone(), scale=p.scale.clone())
        spec = PanelSpec.of(p.panel)
        prepared = prepare(spec, p.directions, p.shift, p.scale, backend=target.backend)
        for step in range(4):
            if step == 1:
                p.directions.mul_(2.0).neg_()
            if step == 2:
                p.shift.mul_(3.0)
            if step == 3:
                p.scale.mul_(0.5)
            anew = prepare(spec, p.directions, p.shift, p.scale, backend=target.backend)
            for q, made in ((before, prepared), (p, anew)):
                part = replace(q, panel=p.panel[: 40 - 9 * step])
                compare_project(part, project(part.panel, made), "dots", f"{dtype}, panel {step}")


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
        prepared_once,
        fewer_bits,
        any_tiling,
        wide_shift,
        no_rows,
    )
}
CPU_MEMORY_ONLY = ("far_rows",)


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
