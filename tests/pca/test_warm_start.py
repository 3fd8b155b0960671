"""The first block: from the same rows however the sample lies in pieces, and near the leading directions."""

from __future__ import annotations

import pytest
import torch

from skillaxes.config import SolverConfig
from skillaxes.pca.base import Problem
from skillaxes.pca.warm_start import warm_start

N, D, K = 1000, 300, 5


@pytest.fixture
def sample() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.arange(1, D + 1) ** -0.7
    return (torch.randn((N, D), generator=generator) * spread + 3).half()


def problem(n_rows: int) -> Problem:
    options = SolverConfig(components=K)
    cpu = torch.device("cpu")
    return Problem(n_rows, D, torch.float16, cpu, options, panel_rows=128, block_columns=16)


@pytest.mark.parametrize("bad", [(), (0, 4, 301, N - 1)])
def test_pieces_play_no_part(sample: torch.Tensor, bad: tuple[int, ...]) -> None:
    """Nor do they where some rows do not count."""
    sample[list(bad), 7] = torch.nan
    whole = warm_start(problem(10 * N), (sample,), 14, None)
    parts = warm_start(problem(10 * N), sample.split([1, 2, 300, 16, 500, 181]), 14, None)
    assert torch.equal(whole.shift, parts.shift) and torch.equal(whole.block, parts.block)
    kept = sample[torch.isfinite(sample).all(dim=1)].double()
    assert (whole.shift - kept.mean(dim=0)).abs().max() <= 1e-5


@pytest.mark.parametrize("n_rows", [N, 10 * N])
def test_it_points_to_the_leading_directions(sample: torch.Tensor, n_rows: int) -> None:
    centred = sample.double() - sample.double().mean(dim=0)
    true = torch.linalg.svd(centred, full_matrices=False).Vh[:K]
    block = warm_start(problem(n_rows), (sample,), 14, None).block
    assert block.shape == (D, 14) and (block.T @ block - torch.eye(14)).abs().max() <= 1e-5
    assert torch.linalg.vector_norm(true @ block, dim=1).min() >= 0.99
