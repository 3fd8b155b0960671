"""The offline labeler: words that separate two groups, by weighted log-odds, and a judge made of the same figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from skillaxes.labeling.keyterms import is_keyword
from skillaxes.labeling.logodds import LogOdds, count, log_odds
from skillaxes.labeling.protocol import FIRST, NEITHER, SECOND, WORDS, Label, LabelFailure, Usage
from skillaxes.labeling.texts import Trace

WORDS_A_SIDE = 3


class KeywordsLabeler:
    """Three words a side: those with the largest z-scores that stand in at least two traces of their group.

    Parameters
    ----------
    background : terms of texts at large, the prior
    reference : some of those texts; the judge's idea of a trace that belongs to neither group
    """

    name = "keywords"
    kind = WORDS
    workers = 1

    def __init__(self, background: Counter[str], reference: Sequence[Trace]) -> None:
        self._background = background
        self._reference = reference

    def label(self, first: Sequence[Trace], second: Sequence[Trace], purpose: str = "") -> Label:
        """The separating words of two groups. Swapped groups give swapped words."""
        odds = log_odds(count(trace.terms for trace in first), count(trace.terms for trace in second), self._background)
        words = _best(odds.z, first, 1), _best(odds.z, second, -1)
        if not words[0] or not words[1]:
            raise LabelFailure("no_words", "the texts of one side share no word that the other side lacks")
        return Label(
            first=words[0],
            second=words[1],
            details={
                "z": [[round(odds.z[word], 2) for word in words[0]], [round(-odds.z[word], 2) for word in words[1]]],
            },
            evidence=(odds, *self._levels(odds, first, second)),
        )

    def _levels(self, odds: LogOdds, first: Sequence[Trace], second: Sequence[Trace]) -> tuple[float, float]:
        """Scores above and below which a trace belongs to a group: half way from texts at large to that group."""
        ground = _mean([weigh(odds, trace) for trace in self._reference])
        above = _mean([weigh(odds, trace) for trace in first])
        below = _mean([weigh(odds, trace) for trace in second])
        return (ground + above) / 2, (ground + below) / 2

    def judge(self, label: Label, purpose: str = "") -> KeywordsJudge:
        return KeywordsJudge(label)

    def usage(self, purpose: str | None = None) -> Usage:
        return Usage()

    def describe(self) -> dict[str, Any]:
        return {"model": None, "base_url": None, "rung": None}

    def spent(self) -> float | None:
        return 0.0

    def stopped_by_cost(self) -> bool:
        return False

    def notes(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        pass


class KeywordsJudge:
    """Takes for the first group's the trace whose terms speak more for it, length aside."""

    def __init__(self, label: Label) -> None:
        self._odds: LogOdds
        self._odds, self._above, self._below = label.evidence

    def pair(self, one: Trace, other: Trace) -> float:
        a, b = weigh(self._odds, one), weigh(self._odds, other)
        return 1.0 if a > b else 0.0 if a < b else 0.5

    def detect(self, trace: Trace) -> str:
        score = weigh(self._odds, trace)
        if score > self._above and score > self._below:
            return FIRST
        return SECOND if score < self._below else NEITHER


def weigh(odds: LogOdds, trace: Trace) -> float:
    """Mean z-score over the distinct terms of a trace."""
    terms = trace.terms
    return sum(odds.z.get(term, 0.0) for term in terms) / len(terms) if terms else 0.0


def _best(z: Mapping[str, float], group: Sequence[Trace], sign: int) -> tuple[str, ...]:
    spread = Counter(term for trace in group for term in trace.terms)
    least = min(2, len(group))
    chosen: list[str] = []
    for term in sorted((t for t in spread if spread[t] >= least and sign * z[t] > 0), key=lambda t: (-sign * z[t], t)):
        if is_keyword(term) and not any(_same_word(term, other) for other in chosen):
            chosen.append(term)
        if len(chosen) == WORDS_A_SIDE:
            break
    return tuple(chosen)


def _same_word(a: str, b: str) -> bool:
    return a.rstrip("s") == b.rstrip("s") if a.isalpha() and b.isalpha() else a == b


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
