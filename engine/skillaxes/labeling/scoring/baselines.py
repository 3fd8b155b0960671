"""Baselines of a score: text length alone, random directions of the same store, random orders of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from skillaxes.labeling.labels import NEGATIVE, POSITIVE
from skillaxes.labeling.scoring.scores import PairScore
from skillaxes.labeling.texts import Trace

PAIRED_LEVEL = 0.05


class LengthJudge:
    """Judges by length alone, from which group's shown traces are longer."""

    def __init__(self, positive: Sequence[Trace], negative: Sequence[Trace]) -> None:
        self._longer_is_positive = bool(
            np.median([trace.length for trace in positive]) >= np.median([trace.length for trace in negative])
        )

    def pair(self, one: Trace, other: Trace) -> float:
        if one.length == other.length:
            return 0.5
        return float((one.length > other.length) == self._longer_is_positive)

    def detect(self, trace: Trace) -> str:
        return POSITIVE if self._longer_is_positive else NEGATIVE


@dataclass(frozen=True)
class NullScores:
    """Scores of directions without meaning, computed in the same way.

    Attributes
    ----------
    accuracies : of the directions that could be scored, ascending
    significant : number of them that are better than chance all the same
    asked : directions that were tried
    """

    accuracies: tuple[float, ...]
    significant: int
    asked: int

    @property
    def p95(self) -> float | None:
        """The 95th percentile of the accuracies; None where there are none."""
        return float(np.quantile(self.accuracies, 0.95)) if self.accuracies else None

    def as_dict(self) -> dict[str, Any]:
        p95 = self.p95
        return {
            "p95": None if p95 is None else round(p95, 4),
            "scored": len(self.accuracies),
            "asked": self.asked,
            "significant": self.significant,
            "accuracies": [round(value, 4) for value in self.accuracies],
        }


def null_scores(scores: Sequence[PairScore | None]) -> NullScores:
    """The scores of directions without meaning, as one value; None stands for a direction without a score."""
    known = [score for score in scores if score is not None]
    return NullScores(
        tuple(sorted(score.accuracy for score in known)), sum(score.significant for score in known), len(scores)
    )


def beats(credits: Sequence[float], others: Sequence[float]) -> bool:
    """Whether a judge is better than another one on the same pairs: one-sided exact sign test (McNemar) at 5%."""
    better = sum(a > b for a, b in zip(credits, others, strict=True))
    worse = sum(a < b for a, b in zip(credits, others, strict=True))
    n = better + worse
    return n > 0 and sum(comb(n, i) for i in range(better, n + 1)) / 2**n < PAIRED_LEVEL
