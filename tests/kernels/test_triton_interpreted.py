"""The law: under Triton's interpreter the fused kernels obey every law of ``kernel_laws``.

The interpreter runs the kernels' own source, masks, strides and addresses included, in float32; what it cannot
show (tensor cores, TF32, registers) is the matter of ``test_compiled.py``.
"""

from __future__ import annotations

import json

import pytest
from kernel_laws import LAWS

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def verdicts(interpreted) -> dict[str, str | None]:
    done = interpreted("kernel_laws.py", "triton", "cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("law", LAWS)
def test_law_holds(verdicts: dict[str, str | None], law: str) -> None:
    assert verdicts[law] is None, verdicts[law]
