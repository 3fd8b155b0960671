"""No row that was shown is ever scored, no group is in both sets, no list holds a near-duplicate, and what was left out
is counted, whatever the data and however many duplicates it has."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.labeling import label
from skillaxes.labeling.examples import NEAR_DUPLICATE, alike, random_order, split_examples
from skillaxes.labeling.scoring.scores import draw_pairs, draw_singles
from skillaxes.labeling.selection import DirectionRows, Ranked
from skillaxes.labeling.texts import SKETCH, Reader, Template, Trace, Window, shingles

STORIES = (
    "{name} buys {n} apples and eats {m} of them on the way home how many are left",
    "{name} reads {n} pages of a book and then reads {m} pages more how many pages are that",
    "compute {n} plus {m}",
    "the train with {name} leaves at {n} and arrives at {m} how long was the ride",
    "{n}",
)


@st.composite
def corpora(draw: Any) -> tuple[dict[int, Trace], DirectionRows, int, int, str | None]:
    """Traces with many exact and near duplicates, and a direction over them."""
    n = draw(st.integers(8, 60))
    group_by = draw(st.sampled_from([None, "kind"]))
    reader = Reader(Template(), "both", Window(None, True), group_by, ("kind",))
    traces = {}
    for row in range(n):
        text = STORIES[draw(st.integers(0, len(STORIES) - 1))].format(
            name=draw(st.sampled_from(["Anna", "Boris"])), n=draw(st.integers(1, 3)), m=draw(st.integers(1, 3))
        )
        kind = draw(st.sampled_from("abcd"))
        traces[row] = reader.trace(row, None, {"input": text, "output": "", "kind": kind})
    order = np.array(draw(st.permutations(range(n))))
    depth = draw(st.integers(2, n // 2))

    def ranked(rows: np.ndarray) -> Ranked:
        return Ranked(rows, np.zeros(len(rows), np.float32), np.zeros(len(rows), np.float32))

    direction = DirectionRows(
        "component", 0, ranked(order[:depth]), ranked(order[::-1][:depth]), ranked(order[depth : n - depth])
    )
    return (
        traces,
        direction,
        draw(st.integers(1, depth)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([None, "kind"])),
    )


@settings(max_examples=200, deadline=None)
@given(corpora())
def test_shown_and_scored_are_apart(corpus: tuple[dict[int, Trace], DirectionRows, int, int, str | None]) -> None:
    traces, direction, top, samples, disjoint_by = corpus
    examples = split_examples(direction, traces, top=top, samples=samples, disjoint_by=disjoint_by)
    positive, negative, between = examples.positive, examples.negative, examples.between
    shown = [trace for side in (positive, negative) for sample in side.samples for trace in sample]
    held_out = [*positive.held_out, *negative.held_out]
    scored = [
        *(trace for pair in draw_pairs(positive.held_out, negative.held_out, 50, (0,)) for trace in pair),
        *(trace for pair in draw_pairs(positive.disjoint, negative.disjoint, 50, (0,)) for trace in pair),
        *(trace for trace, _ in draw_singles(positive.held_out, negative.held_out, between, 60, (0,))),
    ]
    assert len({trace.row for trace in shown}) == len(shown)
    assert not {trace.row for trace in shown} & {trace.row for trace in scored}
    assert not {trace.group for trace in shown} & {trace.group for trace in scored}
    assert {trace.row for trace in scored} <= {trace.row for trace in (*held_out, *between)}
    for trace in held_out:
        assert not any(alike(trace.shingles, other.shingles, NEAR_DUPLICATE) for other in shown)
    for side in (positive, negative):
        kept = [trace for sample in side.samples for trace in sample] + list(side.held_out)
        for i, trace in enumerate(kept):
            assert not any(alike(trace.shingles, other.shingles, NEAR_DUPLICATE) for other in kept[:i])
        assert len(kept) + sum(side.left_out.values()) == len(direction.positive.rows)
        for trace in side.disjoint:
            assert trace in side.held_out
            assert trace.template not in {other.template for other in shown} or disjoint_by
            if disjoint_by:
                assert trace.fields[disjoint_by] not in {other.fields[disjoint_by] for other in shown}
    assert len(positive.shown) <= top


@given(st.lists(st.frozensets(st.integers(0, 8)), min_size=2, max_size=2), st.sampled_from([0.5, 0.8, 1.0]))
def test_alike_is_the_jaccard_index(sets: list[frozenset[int]], least: float) -> None:
    a, b = sets
    expected = a == b if not a or not b else len(a & b) >= least * len(a | b)
    assert alike(a, b, least) == expected == alike(b, a, least)


def test_long_texts_are_compared_by_sketches() -> None:
    words = [f"word{i * 7919 % 5000}" for i in range(3000)]
    whole = shingles(words)
    assert len(whole) == SKETCH
    for changed, expected in ((20, True), (1000, False), (2999, False)):
        other = words[:-changed] + [f"else{i}" for i in range(changed)]
        assert (
            alike(whole, shingles(other), NEAR_DUPLICATE) == expected == alike(shingles(other), whole, NEAR_DUPLICATE)
        )
    assert alike(whole, shingles(words), 1.0)
    assert not alike(whole, shingles(words[:100]), NEAR_DUPLICATE)


def test_every_trace_is_in_one_pair_only() -> None:
    rows = [Trace(i, None, str(i), 1, str(i), "", frozenset()) for i in range(30)]
    pairs = draw_pairs(rows[:20], rows[20:], 50, (1, 2))
    assert len(pairs) == 10 and len({trace.row for pair in pairs for trace in pair}) == 20
    assert pairs == draw_pairs(rows[:20], rows[20:], 50, (1, 2)) != draw_pairs(rows[:20], rows[20:], 50, (1, 3))


def test_random_orders_are_permutations_of_the_sample() -> None:
    rows = np.arange(100, 200)
    first, second = (random_order(rows, 30, index, 0) for index in (0, 1))
    for order in (first, second):
        everything = [*order.positive.rows, *order.negative.rows, *order.middle.rows]
        assert len(set(everything)) == len(everything) == 90 and set(everything) <= set(rows.tolist())
    assert first.positive.rows.tolist() != second.positive.rows.tolist()
    assert len(random_order(rows, 80, 0, 0).positive.rows) == 50


def test_duplicates_are_counted_in_the_record(tmp_path: Any, folder_of: Any) -> None:
    def text(row: int, scores: np.ndarray) -> str:
        return f"{'up' if scores[0] > 0 else 'down'} goes number {row % 40} as told in story {row % 40} of the book"

    folder = folder_of(tmp_path, directions=1, text=text)
    (record,) = label(folder.run_dir, folder.traces, group_by="id").records
    for side in ("positive", "negative"):
        kept = record["held_out"][side] + len(record["shown"][side])
        assert record["left_out"][side]["near_duplicate"] > 0
        assert kept + sum(record["left_out"][side].values()) == 60
