"""The law: a rounded block is what half-precision tensor cores multiply exactly, and rounding it again is nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes_kernels import round_directions
from skillaxes_kernels.backends import native
from skillaxes_kernels.rounding import HALVES, n_terms_of, split


@settings(deadline=None, max_examples=100)
@given(
    dtype=st.sampled_from(HALVES),
    seed=st.integers(0, 10_000),
    spread=st.integers(0, 12),
    size=st.integers(-20, 20),
    scaled=st.booleans(),
)
def test_rounding_twice_changes_nothing(dtype, seed, spread, size, scaled) -> None:
    g = torch.Generator().manual_seed(seed)
    block = torch.randn(50, 3, generator=g) * torch.exp2(spread * torch.randn(50, 3, generator=g) + size)
    block[0, 0], block[1, 1] = 1.9999 * 2.0**size, 0.0
    scale = torch.exp2(3 * torch.randn(50, generator=g)) if scaled else None
    once = round_directions(block, dtype, "cuda", scale)
    assert torch.equal(round_directions(once, dtype, "cuda", scale), once)
    product = once if scale is None else once * scale[:, None]
    terms, exponents = split(product, dtype, 1)
    assert torch.allclose(torch.ldexp(terms[0].float(), -exponents), product, rtol=2.0**-22, atol=0.0)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [1e-25, 1e-3, 1.0, 1e20])
def test_terms_add_up(dtype: torch.dtype, size: float) -> None:
    block = torch.randn(200, 4, generator=torch.Generator().manual_seed(1)) * size
    terms, exponents = split(block, dtype, n_terms_of(dtype))
    total = torch.ldexp(terms.double().sum(dim=0), -exponents)
    bits = 22 if dtype == torch.float16 else 24
    assert float(((total - block).abs() / block.abs().amax(dim=0)).max()) <= 2.0**-bits


def test_where_nothing_is_rounded() -> None:
    block = torch.full((3, 2), 1 / 3)
    assert torch.equal(round_directions(block, torch.float64, "cpu"), block)
    assert torch.equal(round_directions(block, torch.float32, "cuda"), block)
    assert round_directions(block.double(), torch.float16, "cpu").dtype == torch.float32
    assert not torch.equal(round_directions(block, torch.float16, "cuda"), block)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sixteen_bits_where_tiles_multiply(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    block = torch.randn(300, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor(10.0) ** torch.arange(-3, 4)
    monkeypatch.setattr(native, "declines", lambda backend, dtype: None)
    once = round_directions(block, dtype, "cpu")
    assert torch.equal(round_directions(once, dtype, "cpu"), once) and not bool((once.view(torch.int32) & 0xFF).any())
    assert float(((once - block) / block).abs().max()) <= 2.0**-16
    monkeypatch.setattr(native, "declines", lambda backend, dtype: "no tiles")
    assert torch.equal(round_directions(block, dtype, "cpu"), block)


def test_column_of_scale_zero_and_block_of_zeros() -> None:
    scale = torch.tensor([1.0, 0.0, 2.0])
    seen = round_directions(torch.ones((3, 2)), torch.float16, "cuda", scale)
    assert seen.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    assert not round_directions(torch.zeros((3, 2)), torch.bfloat16, "cuda").any()
