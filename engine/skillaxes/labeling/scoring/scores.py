"""Scores of a label: how well a judge that knows it tells held-out traces apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from skillaxes.labeling.labelers.base import Judge
from skillaxes.labeling.labels import GROUPS, NEGATIVE, NEITHER, POSITIVE, LabelFailure
from skillaxes.labeling.texts import Trace

FEWEST_PAIRS = 10  # below it the interval says nothing
_Z95 = 1.959963984540054

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


@dataclass(frozen=True)
class PairScore:
    """The score of blind pairs.

    Attributes
    ----------
    credits : of each pair 1.0 if the judge was right in both orders, 0.5 if its answer depended on the order
    accuracy : their mean; chance is 0.5
    low, high : Wilson's 95% interval over pairs
    unanswered : pairs without a usable answer; they enter no figure
    """

    credits: tuple[float, ...]
    accuracy: float
    low: float
    high: float
    unanswered: int = 0

    @property
    def significant(self) -> bool:
        """Better than chance."""
        return self.low > 0.5

    def as_dict(self) -> dict[str, Any]:
        return {
            "accuracy": round(self.accuracy, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "pairs": len(self.credits),
            "order_dependent": sum(credit == 0.5 for credit in self.credits),
            "unanswered": self.unanswered,
            "chance": 0.5,
        }


@dataclass(frozen=True)
class DetectionScore:
    """The score of traces judged each alone.

    ``balanced_accuracy`` is the mean of the recalls of the three groups; chance is 1/3.
    """

    balanced_accuracy: float
    recalls: dict[str, float]
    traces: int
    unanswered: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "balanced_accuracy": round(self.balanced_accuracy, 4),
            "recalls": {name: round(value, 4) for name, value in self.recalls.items()},
            "traces": self.traces,
            "unanswered": self.unanswered,
            "chance": round(1 / 3, 4),
        }


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a proportion (Wilson 1927). (0, 1) where there were no trials."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def draw_pairs(
    positive: Sequence[Trace], negative: Sequence[Trace], n: int, seed: tuple[int, ...]
) -> list[tuple[Trace, Trace]]:
    """At most ``n`` pairs, one trace of each side; no trace is in two of them, so that pairs are independent trials."""
    random = np.random.default_rng(seed)
    n = min(n, len(positive), len(negative))
    ones, others = random.permutation(len(positive))[:n], random.permutation(len(negative))[:n]
    return [(positive[i], negative[j]) for i, j in zip(ones.tolist(), others.tolist(), strict=True)]


def pair_score(credits: Sequence[float | LabelFailure]) -> PairScore | None:
    """The score of judged pairs; None where too few of them were answered."""
    answered = tuple(credit for credit in credits if not isinstance(credit, LabelFailure))
    if len(answered) < FEWEST_PAIRS:
        return None
    total = sum(answered)
    low, high = wilson(total, len(answered))
    return PairScore(answered, total / len(answered), low, high, len(credits) - len(answered))


def judge_pairs(judge: Judge, pairs: Sequence[tuple[Trace, Trace]], run: Mapper) -> list[float | LabelFailure]:
    """The judge's credit for each pair, whose first trace is the positive one; or the failure."""
    return run(lambda pair: _answer(lambda: judge.pair(*pair)), pairs)


def draw_singles(
    positive: Sequence[Trace], negative: Sequence[Trace], between: Sequence[Trace], n: int, seed: tuple[int, ...]
) -> list[tuple[Trace, str]]:
    """About ``n`` traces with their groups, a third from each."""
    random = np.random.default_rng(seed)
    drawn = []
    for traces, group in ((positive, POSITIVE), (negative, NEGATIVE), (between, NEITHER)):
        chosen = random.permutation(len(traces))[: n // 3]
        drawn += [(traces[i], group) for i in chosen.tolist()]
    return drawn


def judge_singles(judge: Judge, singles: Sequence[tuple[Trace, str]], run: Mapper) -> list[str | LabelFailure]:
    """The judge's group for each trace; or the failure."""
    return run(lambda single: _answer(lambda: judge.detect(single[0])), singles)


def detection_score(
    singles: Sequence[tuple[Trace, str]], answers: Sequence[str | LabelFailure]
) -> DetectionScore | None:
    """The score of judged traces with known groups; None where a group has no answered trace."""
    answered = [
        (truth, answer)
        for (_, truth), answer in zip(singles, answers, strict=True)
        if not isinstance(answer, LabelFailure)
    ]
    recalls = {}
    for group in GROUPS:
        mine = [answer == group for truth, answer in answered if truth == group]
        if not mine:
            return None
        recalls[group] = sum(mine) / len(mine)
    return DetectionScore(sum(recalls.values()) / 3, recalls, len(answered), len(answers) - len(answered))


def _answer(ask: Callable[[], Any]) -> Any:
    # A failure is a value here, so that the other judgements go on; it enters no figure.
    try:
        return ask()
    except LabelFailure as failure:
        return failure
