"""What a score is held against: text length alone, random directions of the same store, random orders of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from skillaxes.labeling.labels import FIRST, SECOND
from skillaxes.labeling.scoring.scores import PairScore
from skillaxes.labeling.texts import Trace

PAIRED_LEVEL = 0.05


class LengthJudge:
    """Knows which group's shown traces are longer, and nothing else."""

    def __init__(self, first: Sequence[Trace], second: Sequence[Trace]) -> None:
        self._longer_is_first = bool(
            np.median([trace.length for trace in first]) >= np.median([trace.length for trace in second])
        )

    def pair(self, one: Trace, other: Trace) -> float:
        if one.length == other.length:
            return 0.5
        return float((one.length > other.length) == self._longer_is_first)

    def detect(self, trace: Trace) -> str:
        return FIRST if self._longer_is_first else SECOND


@dataclass(frozen=True)
class Nulls:
    """Scores of directions that mean nothing, made in the same way.

    Attributes
    ----------
    accuracies : of those that could be scored
    significant : how many of them came out better than chance all the same
    asked : how many were tried
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


def nulls(scores: Sequence[PairScore | None]) -> Nulls:
    """Gather the scores of meaningless directions; None stands for one without a score."""
    known = [score for score in scores if score is not None]
    return Nulls(
        tuple(sorted(score.accuracy for score in known)), sum(score.significant for score in known), len(scores)
    )


def beats(credits: Sequence[float], others: Sequence[float]) -> bool:
    """Whether a judge is better than another one on the same pairs: one-sided exact sign test (McNemar) at 5%."""
    better = sum(a > b for a, b in zip(credits, others, strict=True))
    worse = sum(a < b for a, b in zip(credits, others, strict=True))
    n = better + worse
    return n > 0 and sum(comb(n, i) for i in range(better, n + 1)) / 2**n < PAIRED_LEVEL
