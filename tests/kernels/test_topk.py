"""The law: top-k lists are those of a stable sort of all scores, whatever the blocks, their order and the merges.

Values and rows are compared, with ties on purpose.
"""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes_kernels import TopK, reference


def lists_of(state: TopK) -> list[list[list[tuple[float, int]]]]:
    """Both sides as (score, row) pairs, empty positions left out."""
    done = state.finalize()
    sides = []
    for side in (done.positive, done.negative):
        pairs = [
            [(v, r) for v, r in zip(vs, rs, strict=True) if r >= 0]
            for vs, rs in zip(side.values.tolist(), side.rows.tolist(), strict=True)
        ]
        assert bool(torch.isnan(side.values[side.rows < 0]).all())
        sides.append(pairs)
    return sides


def expected(scores: torch.Tensor, k: int, valid: torch.Tensor) -> list[list[list[tuple[float, int]]]]:
    smallest = [[(-v, r) for v, r in pairs] for pairs in reference.top_k(-scores, k, valid)]
    return [reference.top_k(scores, k, valid), smallest]


@settings(deadline=None, max_examples=120)
@given(
    n_rows=st.integers(1, 90),
    n_lists=st.integers(1, 4),
    k=st.integers(1, 12),
    levels=st.sampled_from([1, 3, 1000]),
    double=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_blocks_in_any_order(n_rows, n_lists, k, levels, double, seed) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels + 1, (n_rows, n_lists), generator=g) / 7
    scores = scores.double() if double else scores.float()
    scores[torch.rand(n_rows, n_lists, generator=g) < 0.1] = torch.nan
    scores[torch.rand(n_rows, n_lists, generator=g) < 0.05] = torch.inf
    valid = torch.rand(n_rows, generator=g) < 0.9
    cuts = sorted({0, n_rows, *torch.randint(0, n_rows + 1, (4,), generator=g).tolist()})
    blocks = list(itertools.pairwise(cuts))
    order = torch.randperm(len(blocks), generator=g).tolist()
    empty = TopK.init(n_lists, k, dtype=scores.dtype)

    streamed, parts = empty, []
    for start, stop in (blocks[i] for i in order):
        streamed = streamed.update(scores[start:stop], start, valid[start:stop])
        parts.append(empty.update(scores[start:stop], start, valid[start:stop]))
    want = expected(scores, k, valid)
    assert lists_of(streamed) == want
    assert lists_of(functools.reduce(TopK.merge, parts, empty)) == want
    assert lists_of(functools.reduce(lambda a, b: b.merge(a), reversed(parts), empty)) == want


def test_long_blocks_with_ties_take_the_lower_rows() -> None:
    scores = torch.ones((5000, 2))
    scores[4000] = 2.0
    assert lists_of(TopK.init(2, 3).update(scores, 0))[0][0] == [(2.0, 4000), (1.0, 0), (1.0, 1)]
    assert lists_of(TopK.init(2, 3).update(scores, 0))[1][1] == [(1.0, 0), (1.0, 1), (1.0, 2)]


def test_rows_beyond_32_bits_and_one_side() -> None:
    first = 3 * 2**32
    state = TopK.init(1, 2).update(torch.tensor([[1.0], [3.0], [2.0]]), first, side="positive")
    assert lists_of(state) == [[[(3.0, first + 1), (2.0, first + 2)]], [[]]]


def test_update_leaves_the_value_as_it_was() -> None:
    before = TopK.init(1, 2)
    after = TopK.update(before, torch.tensor([[1.0]]), 5)
    assert lists_of(before) == [[[]], [[]]] and lists_of(after) == [[[(1.0, 5)]]] * 2


def test_the_way_of_a_gpu_gives_the_same_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card skips the filter that a CPU waits for; the same rows must come out."""
    import skillaxes_kernels.topk as topk

    scores = torch.randint(0, 9, (700, 3)).float()
    with_filter = TopK.init(3, 5).update(scores[:300], 0).update(scores[300:], 300)
    monkeypatch.setattr(topk, "_never_waits", lambda device: True)
    without = TopK.init(3, 5).update(scores[:300], 0).update(scores[300:], 300)
    assert lists_of(with_filter) == lists_of(without)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="n_lists >= 1 and k >= 1, got n_lists=3 and k=0"):
        TopK.init(3, 0)
    with pytest.raises(ValueError, match=r"float32 or float64, got torch\.float16"):
        TopK.init(3, 1, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"scores of shape \(b, 3\)"):
        TopK.init(3, 1).update(torch.zeros((4, 2)), 0)
    with pytest.raises(ValueError, match="side is 'both'"):
        TopK.init(1, 1).update(torch.zeros((4, 1)), 0, side="left")
    with pytest.raises(ValueError, match="cannot merge"):
        TopK.init(1, 1).merge(TopK.init(1, 2))
