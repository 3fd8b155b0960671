"""Scores, baselines, confounds and verdicts say what they claim: intervals by Wilson, rank correlations as scipy's,
odds ratios by hand, and a verdict that names the baseline a label does not beat."""

from __future__ import annotations

from math import exp, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.labeling.labels import NEGATIVE, NEITHER, POSITIVE, LabelFailure
from skillaxes.labeling.scoring.baselines import LengthJudge, NullScores, beats, null_scores
from skillaxes.labeling.scoring.confounds import confounds, enriched, spearman
from skillaxes.labeling.scoring.evaluate import Scores
from skillaxes.labeling.scoring.scores import PairScore, detection_score, judge_pairs, judge_singles, pair_score, wilson
from skillaxes.labeling.scoring.verdict import judge_score
from skillaxes.labeling.selection import DirectionRows, Ranked
from skillaxes.labeling.texts import Features, Trace


def run(function: Any, items: Any) -> list[Any]:
    return [function(item) for item in items]


def trace(row: int, length: int) -> Trace:
    return Trace(row, None, "x", length, "", "", frozenset())


def test_wilson_against_published_figures() -> None:
    # Newcombe (1998), table I: 81/263, 15/148, 0/20, 1/29.
    for r, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(r, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_pairs() -> None:
    failure = LabelFailure("timeout", "no answer in time")
    score = pair_score([1.0] * 8 + [0.5, 0.0, failure])
    assert score is not None and score.accuracy == pytest.approx(0.85) and score.unanswered == 1
    assert score.as_dict()["order_dependent"] == 1 and (score.low, score.high) == wilson(8.5, 10)
    assert pair_score([1.0] * 9 + [failure] * 40) is None  # too few to say anything


class _Judge:
    """Says what it is told; fails for row 3."""

    def pair(self, one: Trace, other: Trace) -> float:
        if one.row == 3:
            raise LabelFailure("timeout", "no answer in time")
        return 1.0

    def detect(self, one: Trace) -> str:
        if one.row == 3:
            raise LabelFailure("timeout", "no answer in time")
        return (POSITIVE, NEGATIVE, NEITHER)[one.row % 3]


def test_a_failed_judgement_is_in_no_figure() -> None:
    traces = [trace(row, row) for row in range(12)]
    credits = judge_pairs(_Judge(), [(one, traces[0]) for one in traces], run)
    assert isinstance(credits[3], LabelFailure) and credits.count(1.0) == 11
    truth = [(one, (POSITIVE, NEGATIVE, POSITIVE)[one.row % 3]) for one in traces[:9]] + [(traces[11], NEITHER)]
    score = detection_score(truth, judge_singles(_Judge(), truth, run))
    assert score is not None and score.unanswered == 1 and score.traces == 9
    assert score.recalls == {POSITIVE: pytest.approx(2 / 5), NEGATIVE: 1.0, NEITHER: 1.0}
    assert score.balanced_accuracy == pytest.approx((2 / 5 + 2) / 3)
    assert detection_score([(traces[0], POSITIVE)], [POSITIVE]) is None


def test_length_judge_knows_length_only() -> None:
    judge = LengthJudge([trace(0, 100), trace(1, 90)], [trace(2, 10), trace(3, 95)])
    assert judge.pair(trace(4, 50), trace(5, 20)) == 1.0
    assert judge.pair(trace(4, 20), trace(5, 50)) == 0.0
    assert judge.pair(trace(4, 20), trace(5, 20)) == 0.5
    other = LengthJudge([trace(2, 10)], [trace(0, 100)])
    assert other.pair(trace(4, 50), trace(5, 20)) == 0.0


def test_sign_test_on_the_same_pairs() -> None:
    assert beats([1.0] * 5, [0.0] * 5)  # 1/32
    assert not beats([1.0] * 4, [0.0] * 4)  # 1/16
    assert not beats([1.0] * 50, [1.0] * 50)
    assert not beats([0.0] * 9, [1.0] * 9)
    assert beats([1.0] * 30 + [0.0] * 2, [1.0] * 22 + [0.0] * 8 + [1.0] * 2) is False  # 8 to 2
    assert beats([1.0] * 30 + [0.0] * 1, [1.0] * 22 + [0.0] * 8 + [1.0] * 1)  # 8 to 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.floats(-1, 1, width=32)), min_size=3, max_size=40))
def test_spearman_is_scipys(pairs: list[tuple[int, float]]) -> None:
    from scipy.stats import spearmanr

    a, b = zip(*pairs, strict=True)
    found = spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_odds_ratios_by_hand() -> None:
    (entry,) = enriched(["a"] * 8 + ["b"] * 2, ["a"] * 20 + ["b"] * 80)
    a, b, c, d = 8.5, 2.5, 20.5, 80.5
    error = sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    assert entry["value"] == "a" and entry["odds_ratio"] == pytest.approx(a * d / (b * c), abs=1e-3)
    assert entry["low"] == pytest.approx(exp(log(a * d / (b * c)) - 1.96 * error), rel=1e-3)
    assert entry["share"] == 0.8 and entry["share_everywhere"] == pytest.approx(28 / 110, abs=1e-4)
    assert enriched(["a", "b"], ["a", "b"] * 50) == []


def test_confounds() -> None:
    random = np.random.default_rng(0)
    n = 400
    length = random.integers(10, 900, n)
    scores = (length + random.normal(0, 60, n)).astype(np.float32)
    features = {
        row: Features(
            int(length[row]),
            3,
            int(random.integers(0, 9)),
            {"kind": "long" if length[row] > 500 else "short", "age": row},
        )
        for row in range(n)
    }
    order = np.argsort(-scores)

    def ranked(rows: np.ndarray) -> Ranked:
        return Ranked(rows, scores[rows], random.uniform(1, 2, len(rows)))

    direction = DirectionRows("component", 0, ranked(order[:40]), ranked(order[::-1][:40]), ranked(order[:0]))
    found = confounds(ranked(np.arange(n)), direction, features, ("kind", "age"))
    assert found["rows"] == n and found["spearman"]["text length"] > 0.9
    assert found["confounded_with"] == ["text length"]
    assert found["spearman"]["digits"] is None and abs(found["spearman"]["age"]) < 0.2
    assert [entry["value"] for entry in found["categories"]["kind"]["positive"]] == ["long"]
    assert [entry["value"] for entry in found["categories"]["kind"]["negative"]] == ["short"]


def score_of(right: int, n: int = 50) -> PairScore:
    found = pair_score([1.0] * right + [0.0] * (n - right))
    assert found is not None
    return found


WEAK = NullScores((0.4, 0.5, 0.6), 0, 3)
STRONG = NullScores((0.9, 1.0, 1.0), 3, 3)
NONE = NullScores((), 0, 0)


@pytest.mark.parametrize(
    ("scores", "randoms", "orders", "split_half", "text"),
    [
        (
            Scores(score_of(48), None, None, score_of(25)), WEAK, WEAK, 0.99,
            "beats length, random directions and random orders",
        ),
        (Scores(score_of(48), None, None, score_of(25)), WEAK, NONE, None, "beats length and random directions"),
        (Scores(score_of(48), None, None, score_of(48)), WEAK, WEAK, None, "no better than text length"),
        (Scores(score_of(48), None, None, score_of(25)), STRONG, WEAK, None, "no better than random directions"),
        (Scores(score_of(48), None, None, score_of(25)), WEAK, WEAK, 0.42, "sample-dependent (split half 0.42)"),
        (
            Scores(score_of(48), score_of(26), None, score_of(25)), WEAK, WEAK, 0.95,
            "does not hold on texts of other kinds",
        ),
        (
            Scores(score_of(27), None, None, score_of(26)), STRONG, WEAK, 0.5,
            "no better than chance; no better than text length; no better than random directions; "
            "no better than random orders; sample-dependent (split half 0.50)",
        ),
        (Scores(), WEAK, WEAK, None, "not scored: 0 blind pairs, and it takes 10"),
        (
            Scores(asked=50, failures=(LabelFailure("rate_limit", "slow down"),)), WEAK, WEAK, None,
            "not scored: the judge gave no answer (rate_limit)",
        ),
    ],
)  # fmt: skip
def test_verdicts(scores: Scores, randoms: NullScores, orders: NullScores, split_half: float | None, text: str) -> None:
    verdict = judge_score(scores, randoms, orders, split_half)
    assert verdict.text == text and verdict.survives == text.startswith("beats")


def test_null_scores() -> None:
    found = null_scores([score_of(25), None, score_of(50), score_of(20)])
    assert found.asked == 4 and found.accuracies == (0.4, 0.5, 1.0) and found.significant == 1
    assert found.p95 == pytest.approx(np.quantile([0.4, 0.5, 1.0], 0.95))
    assert NONE.p95 is None
