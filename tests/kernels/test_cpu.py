"""The law: plain torch on a CPU obeys every law of ``kernel_laws``, whatever the process has set up.

And a refusal is one line: what was given, what is needed.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, Case, Target, project
from kernel_checks import check_accumulate, check_project
from kernel_laws import LAWS

import skillaxes_kernels as kernels
from skillaxes_kernels import PanelSpec, accumulate, prepare, reference

CPU = Target("cpu")


@pytest.mark.parametrize("law", LAWS)
def test_law_holds(law: str) -> None:
    LAWS[law](CPU)


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(DTYPES),
    b=st.integers(1, 70),
    d=st.integers(1, 150),
    n=st.integers(1, 40),
    mean=st.sampled_from([0.0, 1.0, 100.0]),
    scaled=st.booleans(),
    epilogue=st.sampled_from(["dots", "cosines"]),
    seed=st.integers(0, 9),
)
def test_any_shape(dtype, b, d, n, mean, scaled, epilogue, seed) -> None:
    case = Case(dtype, b, d, n, mean, scaled, epilogue=epilogue, special=b > 9, seed=seed)
    check_project(CPU, case)
    check_accumulate(CPU, case)


def test_float64_panels_are_centred_before_they_are_rounded() -> None:
    g = torch.Generator().manual_seed(0)
    mean = 1e6 * torch.randn(300, generator=g, dtype=torch.float64)
    panel = mean + torch.randn(40, 300, generator=g, dtype=torch.float64)
    directions = torch.randn(300, 8, generator=g)
    prepared = prepare(PanelSpec.of(panel), directions, mean)
    seen = kernels.project(panel, prepared)
    true = reference.project(panel, directions, mean)
    assert float((seen.dots - true.dots).abs().max()) < 1e-4
    rounded_first = project(panel.float(), directions, mean.float())
    assert float((rounded_first.dots - true.dots).abs().max()) > 0.1
    panel[3, 3], panel[4, 4] = 1e300, torch.nan
    seen = kernels.project(panel, prepared)
    assert seen.bad.nonzero().flatten().tolist() == [3, 4]
    assert seen.overflowed.nonzero().flatten().tolist() == [3]


def test_buffers_are_reused() -> None:
    panel, directions = torch.ones((6, 5), dtype=torch.float16), torch.ones((5, 2))
    prepared = prepare(PanelSpec.of(panel)._replace(rows=8), directions, backend="cpu")
    assert prepared.rows.nbytes == 8 * 5 * 4 and prepared.wide is None
    for _ in range(2):
        assert kernels.project(panel, prepared).rows.data_ptr() == prepared.rows.data_ptr()


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_precision_set_for_the_process_changes_nothing(setting: str) -> None:
    g = torch.Generator().manual_seed(0)
    panel, directions = torch.randn(64, 512, generator=g), torch.randn(512, 32, generator=g)
    before = torch.get_float32_matmul_precision()
    plain, z_plain = project(panel, directions, backend="cpu"), torch.zeros((512, 32))
    accumulate(z_plain, plain, plain.dots)
    torch.set_float32_matmul_precision(setting)
    try:
        seen, z = project(panel, directions, backend="cpu"), torch.zeros((512, 32))
        accumulate(z, seen, seen.dots)
        accumulate(torch.zeros((512, 32)), seen, seen.dots, bits=8)
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(seen.dots, plain.dots) and torch.equal(z, z_plain)


def test_shift_that_is_not_finite_is_no_bad_row() -> None:
    with pytest.raises(ValueError, match="shift holds NaN or infinity"):
        project(torch.ones((2, 3)), torch.ones((3, 1)), torch.tensor([0.0, torch.nan, 0.0]))


def _refused_directions():
    panel, directions = torch.ones((4, 3)), torch.ones((3, 2))
    yield (panel.int(), directions), {}, "float16, bfloat16, float32 or float64, got torch.int32"
    yield (panel, directions.double()), {}, "float32 tensor of shape \\(3, l\\)"
    yield (panel, torch.ones((4, 2))), {}, "got torch.float32 of shape \\(4, 2\\)"
    yield (panel, torch.ones((3, 0))), {}, "d and l at least 1"
    yield (panel, directions, torch.ones(4)), {}, "shift is float32 of shape \\(3,\\)"
    yield (panel, directions), {"scale": torch.ones(3).half()}, "scale is float32"
    yield (panel, directions, torch.ones(3, device="meta")), {}, "shift is on meta, the directions on cpu; move it"
    yield (panel, directions.to("meta")), {}, "directions are on meta, the panels on cpu; move them there"


@pytest.mark.parametrize(("arguments", "keywords", "message"), list(_refused_directions()))
def test_prepare_refuses(arguments, keywords, message) -> None:
    panel, *others = arguments
    with pytest.raises(ValueError, match=message) as raised:
        prepare(PanelSpec.of(panel), *others, **keywords)
    assert "\n" not in str(raised.value)


def _refused_panels():
    panel = torch.ones((4, 3))
    yield panel.int(), {}, "float16, bfloat16, float32 or float64, got torch.int32"
    yield panel[0], {}, r"of shape \(3,\)"
    yield panel.T.contiguous().T, {}, "column stride 4; copy it"
    yield panel[:, :2], {}, "prepared for panels of 3 columns of torch.float32 on cpu, got 2 of torch.float32 on cpu"
    yield panel.double(), {}, "got 3 of torch.float64 on cpu; prepare them for these panels"
    yield panel, {"epilogue": "norms"}, "'dots' or 'cosines', got 'norms'"
    yield torch.ones((5, 3)), {}, "panels of up to 4 rows, got 5; prepare them for the largest panel"
    yield [panel, panel], {}, "panels of up to 4 rows, got 8; prepare them for the largest panel"


@pytest.mark.parametrize("backend", ["auto", "cpu"])
@pytest.mark.parametrize(("panel", "keywords", "message"), list(_refused_panels()))
def test_project_refuses(panel, keywords, message, backend) -> None:
    prepared = prepare(PanelSpec.of(torch.ones((4, 3))), torch.ones((3, 2)), backend=backend)
    with pytest.raises(ValueError, match=message) as raised:
        kernels.project(panel, prepared, **keywords)
    assert "\n" not in str(raised.value)


def test_accumulate_refuses() -> None:
    seen = project(torch.ones((4, 3)), torch.ones((3, 2)))
    with pytest.raises(ValueError, match="z and weights are float32"):
        accumulate(torch.zeros((3, 2), dtype=torch.float64), seen, seen.dots)
    with pytest.raises(ValueError, match="z needs the shape"):
        accumulate(torch.zeros((2, 3)), seen, seen.dots)
