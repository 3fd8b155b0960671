"""Law: conversions round to nearest, as torch and numpy do, bit for bit, and name what does not fit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from skillaxes.store.dtypes import DTYPES, bad_rows, convert, holder, narrows, overflowing_rows, widen


def as_torch(values: np.ndarray, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(values.copy())
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def samples(dtype: str) -> np.ndarray:
    """Ordinary, tiny, huge and special values, in the holder of ``dtype``."""
    generator = np.random.default_rng(3)
    spread = generator.standard_normal(4000) * 10.0 ** generator.integers(-9, 6, 4000)
    ties = np.float32(1) + np.arange(64) * np.float32(2**-9)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.9, 65520, 3.3895e38, 1e-40, 1e300]
    with np.errstate(over="ignore"):
        wide = np.concatenate([spread, ties, special])
        if dtype == "bfloat16":
            return torch.from_numpy(wide).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        return wide.astype(dtype)


@pytest.mark.parametrize(("dtype", "to"), list(itertools.product(DTYPES, DTYPES)))
def test_conversion_is_that_of_torch(dtype: str, to: str) -> None:
    values = samples(dtype)
    ours = as_torch(convert(values, dtype, to), to)
    theirs = as_torch(values, dtype)
    if (dtype, to) == ("float64", "bfloat16"):
        theirs = theirs.float()  # by way of float32, as documented
    if (dtype, to) == ("float64", "float16"):  # torch rounds twice here, numpy once
        with np.errstate(over="ignore"):
            theirs = torch.from_numpy(values.astype(np.float16))
    theirs = theirs.to(ours.dtype)
    assert convert(values, dtype, to).dtype == holder(to)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_every_bfloat16_and_float16_widens_exactly() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    expected = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(widen(bits, "bfloat16"), expected)
    np.testing.assert_array_equal(
        convert(widen(bits, "bfloat16"), "float32", "bfloat16")[~np.isnan(expected)], bits[~np.isnan(expected)]
    )
    halves = bits.view(np.float16)
    np.testing.assert_array_equal(widen(halves, "float16"), halves.astype(np.float32))


def test_overflow_names_rows_but_not_those_that_were_infinite() -> None:
    values = np.ones((6, 4), np.float32)
    values[1, 2] = 65519  # rounds down to 65504
    values[2, 0] = 65520  # rounds up to infinity
    values[3, 1] = np.inf
    values[4, 3] = np.nan
    values[5, 3] = -1e6
    after = convert(values, "float32", "float16")
    assert overflowing_rows(values, "float32", after, "float16").tolist() == [2, 5]
    assert bad_rows(after, "float16").tolist() == [2, 3, 4, 5]
    assert overflowing_rows(values, "float32", convert(values, "float32", "float64"), "float64").size == 0


def test_narrowing_is_what_can_overflow() -> None:
    wide = {name: torch.finfo(getattr(torch, name)).max for name in DTYPES}
    for dtype, to in itertools.product(DTYPES, DTYPES):
        with np.errstate(over="ignore"):
            top = torch.tensor(wide[dtype], dtype=torch.float64).to(getattr(torch, to))
        assert narrows(dtype, to) == bool(torch.isinf(top)), (dtype, to)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bad_rows(dtype: str) -> None:
    values = np.zeros((5, 3), np.float32)
    values[1, 0], values[3, 2], values[4, 1] = np.nan, np.inf, -np.inf
    assert bad_rows(convert(values, "float32", dtype), dtype).tolist() == [1, 3, 4]
