"""The offline labeler says which words separate two groups (Monroe et al. 2008): swapped groups swap the words, common
words and single traces decide nothing, and its judge needs no model."""

from __future__ import annotations

from collections import Counter
from math import log, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.labeling.labelers.keywords import KeywordsLabeler, log_odds
from skillaxes.labeling.labels import NEGATIVE, NEITHER, POSITIVE, LabelFailure
from skillaxes.labeling.terms import terms_of
from skillaxes.labeling.texts import Trace


def trace(text: str, row: int = 0) -> Trace:
    return Trace(row, None, text, len(text), text, text, frozenset())


def test_terms_keep_mathematics() -> None:
    terms = terms_of("The sum: 3*x**2 + 1/2 = 45.5, 1234 ≤ \\frac a 12-digit well-known x-1")
    assert terms == {
        "the", "sum", ":", "[1-digit]", "*", "x", "**", "+", "[fraction]", "=", "[decimal]", "[long number]", "≤",
        "\\frac", "a", "[2-digit]", "digit", "well", "known",
    }  # fmt: skip
    assert "-" in terms_of("5 - 3") and "-" in terms_of("-3")


def test_statistic_by_hand() -> None:
    first, second, background = Counter(a=8, b=2), Counter(a=2, b=8), Counter(a=50, b=50)
    odds = log_odds(first, second, background)
    prior = 10 * 60 / 120  # weight 10, and half of all terms are a
    delta = log((8 + prior) / (20 - 8 - prior)) - log((2 + prior) / (20 - 2 - prior))
    assert odds.delta["a"] == pytest.approx(delta)
    assert odds.z["a"] == pytest.approx(delta / sqrt(1 / (8 + prior) + 1 / (2 + prior)))
    assert odds.z["b"] == pytest.approx(-odds.z["a"])


words = st.lists(
    st.sampled_from(["alpha", "beta", "gamma", "the", "of", "12", "3.5", "+", "="]), min_size=1, max_size=12
)
groups = st.lists(words.map(" ".join), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(groups, groups)
def test_swapped_groups_swap_the_label(first: list[str], second: list[str]) -> None:
    labeler = KeywordsLabeler(Counter(alpha=5, the=30), [trace("the alpha")])
    a, b = [trace(text) for text in first], [trace(text) for text in second]
    try:
        label = labeler.label(a, b)
    except LabelFailure:
        with pytest.raises(LabelFailure):
            labeler.label(b, a)
        return
    swapped = labeler.label(b, a)
    assert (swapped.positive, swapped.negative) == (label.negative, label.positive)
    for one in a:
        for other in b:
            forth, back = labeler.judge(label).pair(one, other), labeler.judge(label).pair(other, one)
            assert forth + back == 1.0
            assert labeler.judge(swapped).pair(other, one) == forth


def test_words_of_one_trace_and_function_words_name_nothing() -> None:
    first = [trace("the integral of sine rare rare rare rare rare"), trace("the integral of cosine")]
    second = [trace("a married couple and her"), trace("a married man and her")]
    label = KeywordsLabeler(Counter(), []).label(first, second)
    assert label.positive == ("integral",) and label.negative == ("married",)


def test_equal_groups_have_no_label() -> None:
    same = [trace("one two three"), trace("one two three")]
    with pytest.raises(LabelFailure) as error:
        KeywordsLabeler(Counter(), []).label(same, same)
    assert error.value.kind == "no_words"


def test_judge() -> None:
    labeler = KeywordsLabeler(Counter(), [trace("plain talk here"), trace("other plain talk")])
    label = labeler.label(
        [trace("integral dx sine"), trace("integral dx tan")], [trace("married uncle"), trace("married aunt")]
    )
    judge = labeler.judge(label)
    assert judge.pair(trace("an integral over dx"), trace("his uncle is married")) == 1.0
    assert judge.pair(trace("nothing of it"), trace("nothing of it")) == 0.5
    assert judge.detect(trace("integral dx")) == POSITIVE
    assert judge.detect(trace("married")) == NEGATIVE
    assert judge.detect(trace("plain talk")) == NEITHER
