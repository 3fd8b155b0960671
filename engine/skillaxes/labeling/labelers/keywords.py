"""The offline labeler: words that separate two groups, by weighted log-odds, and a judge made of the same figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

from skillaxes.labeling.labels import FIRST, NEITHER, SECOND, WORDS, Label, LabelFailure, Usage
from skillaxes.labeling.terms import count, is_keyword
from skillaxes.labeling.texts import Trace


@dataclass(frozen=True)
class LogOdds:
    """How much more often each term stands in the first group than in the second.

    Attributes
    ----------
    delta : term -> difference of the log-odds, positive where the first group uses it more
    z : term -> delta in units of its standard error
    """

    delta: Mapping[str, float]
    z: Mapping[str, float]


def log_odds(first: Mapping[str, int], second: Mapping[str, int], background: Mapping[str, int]) -> LogOdds:
    """The statistic for every term of the two groups.

    Parameters
    ----------
    first, second : in how many texts of each group a term stands
    background : the same in texts at large; with the groups themselves added they are the prior's shape. The prior
        weighs as much as the two groups' mean number of terms.
    """
    n_first, n_second = sum(first.values()), sum(second.values())
    # Sorted, so that sums and ties don't hang on the hashing of strings.
    vocabulary = sorted(set(first) | set(second))
    shape = {term: background.get(term, 0) + first.get(term, 0) + second.get(term, 0) for term in vocabulary}
    total = sum(background.values()) + n_first + n_second
    weight = (n_first + n_second) / 2
    delta, z = {}, {}
    for term in vocabulary:
        prior = weight * shape[term] / total
        a, b = first.get(term, 0) + prior, second.get(term, 0) + prior
        rest_a, rest_b = n_first + weight - a, n_second + weight - b
        if rest_a <= 0 or rest_b <= 0:  # one term is all there is
            delta[term] = z[term] = 0.0
            continue
        delta[term] = log(a / rest_a) - log(b / rest_b)
        z[term] = delta[term] / sqrt(1 / a + 1 / b)
    return LogOdds(delta, z)


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
