"""The law: an automatic choice can be asked, a named backend is taken or refused with its reason, never replaced.

And importing the package loads nothing and probes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from kernel_cases import project

from skillaxes_kernels import BackendError, PanelSpec, api, select_backend
from skillaxes_kernels.backends import triton as fused


def panels(device: str, dtype: torch.dtype) -> PanelSpec:
    return PanelSpec(64, 100, dtype, torch.device(device))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch):
    """A card of capability 9.0 with everything that the fused kernel needs, as far as the backend can see."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(fused, "c_compiler", lambda: "/usr/bin/cc")
    monkeypatch.setattr(fused, "_launch_once", lambda device: None)
    monkeypatch.setattr(fused, "_has_triton", lambda: True)
    fused._card_declines.cache_clear()
    api._warned.clear()
    yield monkeypatch
    fused._card_declines.cache_clear()
    api._warned.clear()


def test_the_choice_and_its_reasons(card: pytest.MonkeyPatch) -> None:
    assert select_backend(panels("cpu", torch.float64)).name == "cpu"
    choice = select_backend(panels("cuda:0", torch.float16))
    assert choice.name == "triton" and "fused kernel takes torch.float16" in choice.reasons[0]
    choice = select_backend(panels("cuda:0", torch.float64))
    assert choice.name == "torch" and "not torch.float64" in choice.reasons[1]
    assert select_backend(panels("cpu", torch.float32), "reference").reasons == ("named by the caller",)


def _failing_launch(device: torch.device) -> None:
    raise RuntimeError("CUDA driver version is insufficient\nand more")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("c_compiler", lambda: None, "no C compiler was found"),
        ("_has_triton", lambda: False, "triton is not installed"),
        ("_launch_once", _failing_launch, "a trial launch failed: RuntimeError: CUDA driver version is insufficient"),
    ],
)
def test_a_node_that_cannot_launch_falls_back_with_one_warning(card, name, value, reason) -> None:
    card.setattr(fused, name, value)
    with pytest.warns(RuntimeWarning, match=reason):
        choice = select_backend(panels("cuda:0", torch.float16))
    assert choice.name == "torch" and reason in choice.reasons[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select_backend(panels("cuda:0", torch.bfloat16)).name == "torch"
    with pytest.raises(BackendError, match=reason) as raised:
        select_backend(panels("cuda:0", torch.float16), "triton")
    assert "\n" not in str(raised.value)


def test_an_old_card_is_named(card: pytest.MonkeyPatch) -> None:
    card.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    with pytest.raises(BackendError, match=r"compute capability 7\.5, 8\.0 is needed"):
        select_backend(panels("cuda:0", torch.float16), "triton")


def test_no_device_is_a_reason_and_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "torch sees no CUDA device" in select_backend(panels("cuda", torch.float16)).reasons[1]


def test_a_named_backend_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    panel, directions = torch.ones((2, 3)), torch.ones((3, 1))
    with pytest.raises(BackendError, match="'triton' declines: the panels are on cpu, it needs CUDA"):
        project(panel, directions, backend="triton")
    with pytest.raises(BackendError, match="'torch' declines: the panels are on the CPU; use backend='cpu'"):
        project(panel, directions, backend="torch")
    with pytest.raises(BackendError, match="'cpu' declines"):
        select_backend(panels("cuda", torch.float16), "cpu")
    with pytest.raises(BackendError, match="'tpu' is unknown; use one of auto, amx, avx512, cpu"):
        project(panel, directions, backend="tpu")
    assert project(panel, directions, backend="reference").dots.dtype == torch.float64


def test_the_c_compiler_is_the_one_triton_would_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/clang" if name == "clang" else None)
    assert fused.c_compiler() == "/bin/clang"
    monkeypatch.setattr("shutil.which", lambda name: "/bin/cc" if name == "cc" else None)
    assert fused.c_compiler() is None, "Triton looks for no cc"
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name != "lost" else None)
    monkeypatch.setenv("CC", "icx")
    assert fused.c_compiler() == "/bin/icx"
    monkeypatch.setenv("CC", "lost")
    assert fused.c_compiler() is None, "Triton takes no other where one is named"


def test_importing_loads_nothing() -> None:
    code = "import sys, skillaxes_kernels; print(sorted({'torch', 'triton', 'numpy', 'cupy'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_triton_is_not_loaded_for_panels_on_a_cpu() -> None:
    code = """
import sys, torch
from skillaxes_kernels import PanelSpec, prepare, project
panel = torch.ones((4, 3))
project(panel, prepare(PanelSpec.of(panel), torch.ones((3, 2))))
print("skillaxes_kernels.backends.triton" in sys.modules, "triton" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["True", "False"]


def test_the_public_index_is_complete() -> None:
    import skillaxes_kernels

    assert all(getattr(skillaxes_kernels, name) is not None for name in skillaxes_kernels.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = skillaxes_kernels.nothing
