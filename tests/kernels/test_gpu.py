"""The law: on a card the fused kernel and plain torch obey every law of ``kernel_laws``.

``far_rows`` is left to the interpreter: it needs a panel that no ordinary allocation makes.
"""

from __future__ import annotations

import pytest
import torch
from kernel_cases import Case, Target, problem
from kernel_laws import CPU_MEMORY_ONLY, LAWS

from skillaxes_kernels import PanelSpec, TopK, select_backend

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("law", [name for name in LAWS if name not in CPU_MEMORY_ONLY])
def test_law_holds(law: str, backend: str) -> None:
    LAWS[law](Target(backend, "cuda"))


def test_the_fused_kernel_is_what_auto_takes() -> None:
    choice = select_backend(PanelSpec(1024, 4096, torch.float16, torch.device("cuda")))
    assert choice.name == "triton", choice.reasons


def test_top_k_lists_are_those_of_the_cpu() -> None:
    scores = torch.randint(-50, 50, (20_000, 4)).float()
    lists = [
        TopK.init(4, 25, device).update(scores[:9000].to(device), 0).update(scores[9000:].to(device), 9000).finalize()
        for device in ("cpu", "cuda")
    ]
    for side in ("positive", "negative"):
        here, there = (getattr(found, side) for found in lists)
        assert torch.equal(here.rows, there.rows.cpu()) and torch.equal(here.values, there.values.cpu())


def test_no_wait_for_the_device_once_directions_are_prepared() -> None:
    """A panel after the first one is launched and not waited for: nothing asks the card for a value."""
    from skillaxes_kernels import accumulate, prepare, project

    p = problem(Case(torch.float16, 256, 1024, 48, 3.0), "cuda")
    prepared = prepare(PanelSpec.of(p.panel), p.directions, p.shift)
    z = torch.zeros((1024, 48), device="cuda")
    for step in range(2):
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            seen = project(p.panel, prepared)
            accumulate(z, seen, seen.dots)
        finally:
            torch.cuda.set_sync_debug_mode("default")
