"""The law: every implementation for CPUs obeys every law of ``kernel_laws`` and takes a panel in the same ways.

Those that this machine lacks the instructions for are skipped, not those that were not built.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, Case, Target, problem, project
from kernel_checks import check_accumulate, check_project
from kernel_laws import LAWS

import skillaxes_kernels as kernels
from skillaxes_kernels import (
    BackendError,
    PanelSpec,
    accumulate,
    column_sums,
    group_sq_norms,
    prepare,
    select_backend,
)
from skillaxes_kernels.backends import native, torch_backend

COMPILED = ("amx", "avx512")


@pytest.fixture(params=[*COMPILED, "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    return available(request.param)


@pytest.fixture(params=COMPILED)
def compiled(request: pytest.FixtureRequest) -> str:
    return available(request.param)


def cpu_panels(dtype: torch.dtype) -> PanelSpec:
    return PanelSpec(64, 100, dtype, torch.device("cpu"))


def available(name: str) -> str:
    missing = native.declines(name, torch.float16) if name in COMPILED else None
    if missing is not None and "this CPU" in missing:
        pytest.skip(missing)
    return name


def test_the_library_was_built() -> None:
    """On x86-64 an installation without it would be silently slow; ``make test`` has a compiler."""
    assert native.LIBRARY.exists() or torch.backends.cpu.get_cpu_capability() == "DEFAULT"


@pytest.mark.parametrize("law", LAWS)
def test_law_holds(compiled: str, law: str) -> None:
    LAWS[law](Target(compiled))


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(COMPILED),
    dtype=st.sampled_from(DTYPES),
    b=st.integers(1, 150),
    d=st.one_of(st.integers(1, 150), st.integers(1000, 1200)),
    n=st.integers(1, 120),
    mean=st.sampled_from([0.0, 1.0, 100.0]),
    scaled=st.booleans(),
    rounded=st.booleans(),
    epilogue=st.sampled_from(["dots", "cosines"]),
    bits=st.sampled_from([24, 16, 8]),
    seed=st.integers(0, 9),
)
def test_any_shape(name, dtype, b, d, n, mean, scaled, rounded, epilogue, bits, seed) -> None:
    if native.declines(name, dtype) is not None:
        return
    case = Case(dtype, b, d, n, mean, scaled, rounded, epilogue, special=b > 9, seed=seed)
    check_project(Target(name), case)
    check_accumulate(Target(name), case, bits)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(compiled: str, n_threads: int) -> None:
    p = problem(Case(torch.float16, 700, 1300, 48, 3.0), "cpu")
    seen = []
    before = torch.get_num_threads()
    for threads in (1, n_threads):
        torch.set_num_threads(threads)
        try:
            projection = project(p.panel, p.directions, p.shift, backend=compiled)
            z = torch.zeros((48, 1300)).T
            accumulate(z, projection, projection.dots)
        finally:
            torch.set_num_threads(before)
        seen.append((projection.dots, projection.sq_norms, z))
    assert native.ALONE <= 700 * 1300, "so few entries are left to one thread"
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_rows_known_to_be_bad_are_zeroed_without_a_look_at_the_others(backend: str) -> None:
    g = torch.Generator().manual_seed(0)
    panel, directions = torch.randn(30, 70, generator=g).half(), torch.randn(70, 4, generator=g)
    panel[3, 5], panel[29] = torch.inf, torch.nan
    first = project(panel, directions, torch.ones(70), backend=backend)
    again = project(panel, directions, torch.ones(70), bad=first.bad, backend=backend)
    assert torch.equal(again.dots, first.dots) and torch.equal(again.bad, first.bad)
    assert bool(again.sq_norms[~first.bad].isnan().all())
    z, once_more = torch.zeros((70, 2)), torch.zeros((70, 2))
    accumulate(z, first, torch.ones((30, 2)))
    accumulate(once_more, again, torch.ones((30, 2)))
    assert torch.equal(z, once_more) and bool(torch.isfinite(z).all())
    cosines = project(panel, directions, bad=first.bad, epilogue="cosines", backend=backend)
    assert not bool(cosines.sq_norms.isnan().any())
    with pytest.raises(ValueError, match=r"bad is a bool tensor of shape \(30,\), got torch.bool of shape \(29,\)"):
        project(panel, directions, bad=first.bad[1:], backend=backend)


def test_a_panel_in_pieces_is_the_panel(backend: str) -> None:
    g = torch.Generator().manual_seed(0)
    panel, directions = torch.randn(30, 70, generator=g).half(), torch.randn(70, 4, generator=g)
    panel[17, 5] = torch.inf
    whole = project(panel, directions, torch.ones(70), backend=backend)
    cut = project([panel[:7], panel[7:8], panel[8:8], panel[8:]], directions, torch.ones(70), backend=backend)
    for name in ("dots", "sq_norms", "bad", "overflowed", "shape"):
        assert torch.equal(torch.as_tensor(getattr(cut, name)), torch.as_tensor(getattr(whole, name))), name
    sums = []
    for seen in (whole, cut):
        z = torch.zeros((70, 3))
        accumulate(z, seen, torch.ones((30, 3)))
        sums.append(z)
    assert torch.equal(*sums)
    reference = project([panel[:7], panel[7:]], directions, torch.ones(70), backend="reference")
    assert torch.allclose(reference.dots.float(), whole.dots, atol=1e-4)
    with pytest.raises(ValueError, match="pieces of a panel have one dtype"):
        project([panel[:7], panel[7:].float()], directions, backend=backend)
    with pytest.raises(ValueError, match="at least one"):
        kernels.project([], prepare(PanelSpec.of(panel), directions, backend=backend))


@pytest.mark.parametrize("scaled", [False, True])
def test_norms_by_groups_of_columns(backend: str, scaled: bool) -> None:
    p = problem(Case(torch.float16, 40, 700, 3, 5.0, scaled, special=True), "cpu")
    groups = (slice(0, 1), slice(1, 300), slice(300, 700))
    seen = project(p.panel, p.directions, p.shift, scale=p.scale, backend=backend)
    squares = group_sq_norms(seen, groups)
    true = project(p.panel, p.directions, p.shift, scale=p.scale, backend="reference")
    assert squares.dtype == torch.float64
    assert torch.allclose(squares, group_sq_norms(true, groups), rtol=1e-6, atol=1e-12)
    assert torch.allclose(squares.sum(dim=1), true.sq_norms, rtol=1e-6, atol=1e-12)
    for wrong in ((slice(0, 1), slice(2, 700)), (slice(0, 699),), ()):
        with pytest.raises(ValueError, match="groups follow each other from column 0 to column 700"):
            group_sq_norms(seen, wrong)


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from([*DTYPES, torch.float64]),
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=4),
    d=st.one_of(st.integers(1, 150), st.integers(2000, 4200)),
    compiled=st.booleans(),
)
def test_sums_of_columns(dtype: torch.dtype, lengths: list[int], d: int, compiled: bool) -> None:
    """Of rows as they are stored, a large mean included; the same with compiled and with plain code."""
    generator = torch.Generator().manual_seed(len(lengths) + d)
    pieces = [(torch.randn((n, d + 3), generator=generator) + 50).to(dtype)[:, :d] for n in lengths]
    true = torch.cat(pieces).double().sum(dim=0)
    sums = column_sums if compiled else torch_backend.column_sums
    found = sums(pieces)
    assert found.dtype == torch.float64 and found.shape == (d,)
    assert (found - true).abs().max() <= 1e-6 * true.abs().max()
    assert torch.equal(sums([torch.cat(pieces)]), found), "pieces play no part"


def test_sums_of_columns_tell_of_rows_that_are_not_finite() -> None:
    panel = torch.ones((300, 100), dtype=torch.float16)
    panel[7, 3], panel[299, 99] = torch.nan, torch.inf
    sums = column_sums(panel)
    assert sums[3].isnan() and sums[99].isinf() and bool(torch.isfinite(sums[4:99]).all())
    with pytest.raises(ValueError, match="a panel is one or more"):
        column_sums(torch.ones(5))


def test_more_directions_than_one_call_takes(compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "MOST_DIRECTIONS", 32)
    check_project(Target(compiled), Case(torch.float16, 40, 200, 75, 3.0))
    check_project(Target(compiled), Case(torch.float16, 40, 200, 64, 3.0, special=True))


def test_directions_are_packed_by_prepare_alone(compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    library = native.library()

    class Watched:
        def __getattr__(self, name: str):
            if name == "skx_pack_directions":
                packed.append(name)
            return getattr(library, name)

    monkeypatch.setattr(native, "library", Watched)
    panel, directions = torch.ones((4, 30)), torch.ones((30, 2))
    prepared = prepare(PanelSpec.of(panel), directions, backend=compiled)
    assert len(packed) == 1
    for _ in range(3):
        assert kernels.project(panel, prepared).dots.tolist() == [[30.0, 30.0]] * 4
    assert len(packed) == 1
    twice = prepare(PanelSpec.of(panel), directions.mul_(2), backend=compiled)
    assert kernels.project(panel, twice).dots.tolist() == [[60.0, 60.0]] * 4
    assert len(packed) == 2


def test_the_fastest_that_serves_is_taken() -> None:
    names = [name for name in COMPILED if native.declines(name, torch.float16) is None]
    choice = select_backend(cpu_panels(torch.float16))
    assert choice.name == (names[0] if names else "cpu")
    declined = select_backend(cpu_panels(torch.float64))
    assert declined.name == "cpu" and "not torch.float64" in declined.reasons[-1]


def test_the_environment_names_the_fastest_that_may_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with nothing faster; what is not there is an error, and the caller's own choice stays."""
    for name in (*COMPILED, "cpu"):
        monkeypatch.setenv(native.CPU_BACKEND, name)
        missing = native.offered() < native.LEVELS.get(name, 0)
        if missing:
            with pytest.raises(BackendError, match=f"SKILLAXES_CPU_BACKEND={name}: .*; name another, or none"):
                select_backend(cpu_panels(torch.float16))
            continue
        choice = select_backend(cpu_panels(torch.float16))
        assert choice.name == name == project(torch.ones((2, 3)), torch.ones((3, 1))).backend
        faster = [one for one in COMPILED if native.LEVELS[one] > native.LEVELS.get(name, 0)]
        for one, reason in zip(faster, choice.reasons[1:], strict=True):
            offered = native.offered() >= native.LEVELS[one]
            said = f"SKILLAXES_CPU_BACKEND={name} rules it out" if offered else "this CPU"
            assert reason.startswith(f"{one} declines: {said}")
            with pytest.raises(BackendError, match=f"'{one}' declines"):
                select_backend(cpu_panels(torch.float16), one)
        assert select_backend(cpu_panels(torch.float64)).name == "cpu"
        assert select_backend(cpu_panels(torch.float16), "cpu").name == "cpu"
    monkeypatch.setenv(native.CPU_BACKEND, "sse")
    with pytest.raises(BackendError, match="SKILLAXES_CPU_BACKEND=sse is unknown; use one of amx, avx512, cpu"):
        select_backend(cpu_panels(torch.float16))


def test_without_the_library_plain_torch_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    native.library.cache_clear()
    native.offered.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(native, "LIBRARY", tmp_path / "_native.so")
            choice = select_backend(cpu_panels(torch.float16))
            assert choice.name == "cpu" and "was not built" in choice.reasons[1]
            assert project(torch.ones((2, 3)), torch.ones((3, 1))).backend == "cpu"
            (tmp_path / "_native.so").write_text("no library")
            native.library.cache_clear()
            assert "cannot be loaded" in select_backend(cpu_panels(torch.float16)).reasons[1]
            with pytest.raises(BackendError, match=r"'avx512' declines: .*cannot be loaded"):
                select_backend(cpu_panels(torch.float16), "avx512")
    finally:
        native.library.cache_clear()
        native.offered.cache_clear()


def test_a_forked_process_has_threads_of_its_own() -> None:
    code = """
import json, os, torch
from skillaxes_kernels import PanelSpec, prepare, project
torch.set_num_threads(2)
panel, directions = torch.ones((600, 1000)), torch.ones((1000, 2))
prepared = prepare(PanelSpec.of(panel), directions)
before = project(panel, prepared).dots
child = os.fork()
if child == 0:
    os._exit(int(not torch.equal(project(panel, prepared).dots, before)))
print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == 0
