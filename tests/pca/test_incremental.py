"""The law: the incremental solver's state is a value that summarises the rows seen, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.matrices import Exact, direction_errors, power_law

from skillaxes.pca import incremental


def after(rows: np.ndarray, sizes: list[int], k: int = 5) -> incremental.IncrementalState:
    state = incremental.init(rows.shape[1], k, torch.zeros(rows.shape[1]))
    at = 0
    for size in sizes:
        state = incremental.update(state, torch.from_numpy(rows[at : at + size]).float())
        at += size
    assert at == len(rows)
    return state


def test_few_rows_lose_nothing() -> None:
    """As long as the capacity holds every direction, mean, variances and directions are exact."""
    rows = power_law(25, 40, exponent=0.3, mean=3)
    exact = Exact(rows.astype(np.float32).astype(np.float64))
    for sizes in ([25], [1] * 25, [3, 0, 10, 12]):
        state = incremental.flush(after(rows, sizes))
        assert state.n_seen == 25 and len(state.pending) == 0
        np.testing.assert_allclose(state.mean.numpy(), exact.mean, atol=1e-6)
        np.testing.assert_allclose(state.squares[:24] / 24, exact.values[:24], rtol=1e-3)
        assert direction_errors(state.directions.T[:5].numpy(), exact.components[:5]).max() <= 1e-9


def test_the_state_is_a_value() -> None:
    """Flushing or going on from a state leaves it as it was."""
    rows = power_law(700, 30, exponent=0.5)
    state = after(rows, [600, 100])
    before = [state.mean.clone(), state.directions.clone(), state.squares.clone(), state.pending.clone()]
    once, twice = incremental.flush(state), incremental.flush(state)
    incremental.update(state, torch.ones((50, 30)))
    for now, then in zip((state.mean, state.directions, state.squares, state.pending), before, strict=True):
        assert torch.equal(now, then)
    assert torch.equal(once.directions, twice.directions)
    assert incremental.flush(once) is once, "with nothing pending there is nothing to do"


@pytest.mark.parametrize("steep", [1.0, 1e3])
def test_directions_stay_orthonormal(steep: float) -> None:
    rows = power_law(5000, 60, exponent=0.5, leading=(steep,))
    state = incremental.flush(after(rows, [500] * 10))
    gram = state.directions.double().T @ state.directions.double()
    assert (gram - torch.eye(len(gram))).abs().max() <= 1e-5
    assert (state.squares.diff() <= 0).all()
    assert state.directions.shape[1] <= state.capacity


def test_variance_is_accounted_for() -> None:
    """What was cut off is counted, so that shares of the total are right."""
    rows = power_law(3000, 80, exponent=0.3)
    state = incremental.flush(after(rows, [1000] * 3))
    total = (float(state.squares.sum()) + state.discarded) / 2999
    np.testing.assert_allclose(total, Exact(rows).total_variance, rtol=1e-4)
