"""The law: for sm_80, sm_90 and sm_100 the kernels compile without a driver, as they are launched.

They spill no register, fit the card's shared memory, use that architecture's tensor cores for half precision, and
never TF32 where float32 was promised.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from bench.kernels.resources import ARCHITECTURES, DTYPES, SHARED_LIMIT, compile_for, launches

_HALVES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_kernels_compile_within_the_card(dtype: torch.dtype, architecture: int) -> None:
    seen = launches(dtype, 16) + launches(dtype, 48) + launches(dtype, 128)
    seen += launches(dtype, 10, rounded=False, cosines=True, n_rows=1, n_columns=1001)
    seen += launches(dtype, 128, n_columns=1001)
    seen += launches(dtype, 16, plain=True, cheap=True)
    assert {launch.kernel for launch in seen} == {"project_kernel", "finish_kernel", "accumulate_kernel"}
    # The second stage multiplies nothing: once is enough.
    first = next(launch for launch in seen if launch.kernel == "finish_kernel")
    for launch in [first, *(launch for launch in seen if launch.kernel != "finish_kernel")]:
        r = compile_for(launch, architecture)
        what = f"{launch.kernel} {launch.constants}"
        assert r.spills == 0, f"{what}: {r.spills} bytes of spills"
        assert r.shared <= SHARED_LIMIT[architecture], f"{what}: {r.shared} bytes of shared memory"
        multiplies_halves = launch.kernel != "finish_kernel" and dtype in _HALVES
        cheap = launch.constants.get("FLOAT32_PRECISION") == "tf32"
        if multiplies_halves:
            assert r.tensor_core > 0, f"{what}: no tensor-core instruction"
        if not cheap:
            assert not r.tf32, f"{what}: TF32"
            assert multiplies_halves or r.tensor_core == 0, what
        elif dtype == torch.float32:
            assert r.tf32, f"{what}: TF32 was asked for and is not seen"


def test_launches_of_short_panels_split_the_columns() -> None:
    tall, short = (launches(torch.float16, 48, n_rows=rows, n_columns=4096)[0] for rows in (8192, 16))
    assert tall.arguments["tiles_per_split"] > short.arguments["tiles_per_split"]
    assert short.arguments["partial_dots_ptr"].shape[0] > 1


def test_table_is_there_and_shows_no_spills() -> None:
    text = Path(__file__).parents[2].joinpath("bench/kernels/RESOURCES.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]
    assert {row[1].strip() for row in rows} == set(DTYPES)
    assert {row[4].strip() for row in rows} == {f"sm_{a}" for a in ARCHITECTURES}
    assert all(row[6].strip() == "0" for row in rows)
    assert "No card has run these kernels yet" in text
