"""The law: a certified member stays in the list wherever the direction turns within its angle bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.ranking.topk import certified_members, scores_as_cosines


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def turned(direction: np.ndarray, angle: float, rng: np.random.Generator, towards: np.ndarray | None) -> np.ndarray:
    """``direction`` turned by ``angle``, at random or towards or away from a row."""
    other = rng.standard_normal(len(direction)) if towards is None else towards * rng.choice([-1, 1])
    other = unit(other - (other @ direction) * direction)
    return math.cos(angle) * direction + math.sin(angle) * other


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(3, 60),
    d=st.integers(2, 12),
    top=st.integers(1, 10),
    log_angle=st.floats(-4, 0.19),
    spread=st.floats(0.01, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_certified_members_never_leave(n: int, d: int, top: int, log_angle: float, spread: float, seed: int) -> None:
    """Cosines of raw rows, also of rows crowded about the direction itself; both sides; the worst turns among them."""
    rng = np.random.default_rng(seed)
    top = min(top, n // 2)
    angle = min(10**log_angle, math.pi / 2)
    direction = unit(rng.standard_normal(d))
    rows = unit(direction * rng.choice([0, 1, 5]) + spread * rng.standard_normal((n, d)))
    scores = rows @ direction
    for sign in (1, -1):
        order = np.lexsort((np.arange(n), -sign * scores))
        members, outsider = order[:top], float((sign * scores)[order[top]])
        sure = certified_members(torch.from_numpy((sign * scores)[members]), outsider, angle).numpy()
        for attempt in range(40):
            towards = None if attempt < 10 else rows[rng.choice(n)]
            seen = rows @ turned(direction, angle * rng.choice([1, 1, rng.random()]), rng, towards)
            still = np.lexsort((np.arange(n), -sign * seen))[:top]
            assert set(members[sure]) <= set(still), f"a certified row left at an angle of {angle:.1e}"


def test_it_says_something() -> None:
    """With gaps far above the bound all members are certified, and none with ties at the edge."""
    scores = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
    assert certified_members(scores, 0.6, 1e-3).all()
    assert certified_members(scores, 0.6999, 1e-3).tolist() == [True, True, False]
    assert not certified_members(scores, 0.7, 0.0)[2], "a tie is decided by rounding"
    assert certified_members(scores, -math.inf, math.pi / 2).all(), "nobody is outside"
    assert not certified_members(scores, 0.6, math.pi / 2).any()


def test_tight() -> None:
    """Twice the angle that a gap allows is too much, half of it is not: the bound is no looser than that."""
    for cosine in (0.1, 0.5, 0.9):
        gap = 1e-3
        limit = gap / (2 * math.sqrt(1 - cosine**2))
        scores = torch.tensor([cosine + gap], dtype=torch.float64)
        assert certified_members(scores, cosine, limit / 1.1)[0]
        assert not certified_members(scores, cosine, limit * 1.1)[0]


@pytest.mark.parametrize("seed", range(20))
def test_projections_are_certified_by_the_longest_row(seed: int) -> None:
    """Projections have no common scale: the error is bounded by the longest row, member or not."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((50, 6)) * rng.uniform(0.1, 10, (50, 1))
    direction = unit(rng.standard_normal(6))
    angle = 10 ** rng.uniform(-3, -1)
    scores = rows @ direction
    largest = float(np.linalg.norm(rows, axis=1).max())
    order = np.argsort(-scores, kind="stable")
    scaled = scores_as_cosines(torch.from_numpy(scores[order[:11]]), "projection", largest)
    sure = certified_members(scaled[:10], float(scaled[10]), angle).numpy()
    for attempt in range(200):
        towards = rows[rng.choice(50)] if attempt % 2 else None
        still = np.argsort(-(rows @ turned(direction, angle, rng, towards)), kind="stable")[:10]
        assert set(order[:10][sure]) <= set(still)
