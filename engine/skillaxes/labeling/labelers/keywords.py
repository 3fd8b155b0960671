"""The offline labeler: words that separate two groups by weighted log-odds, and a judge by the same z-scores.

The statistic is log-odds with an informative Dirichlet prior: Monroe, Colaresi and Quinn (2008), "Fightin' Words",
Political Analysis 16(4), equations 16, 19 and 22.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import TYPE_CHECKING

from skillaxes.labeling.labelers.base import Labeler
from skillaxes.labeling.labels import NEGATIVE, NEITHER, POSITIVE, Label, LabelFailure
from skillaxes.labeling.terms import count, is_keyword
from skillaxes.run_folder.labels import WORDS

if TYPE_CHECKING:
    from skillaxes.labeling.examples import Examples
    from skillaxes.labeling.texts import Trace
    from skillaxes.progress import Progress

WORDS_A_SIDE = 3


@dataclass(frozen=True)
class LogOdds:
    """How much more often each term stands in the positive group than in the negative one.

    Attributes
    ----------
    delta : term -> difference of the log-odds, above 0 where the positive group uses the term more
    z : term -> delta in units of its standard error
    """

    delta: Mapping[str, float]
    z: Mapping[str, float]


def log_odds(positive: Mapping[str, int], negative: Mapping[str, int], background: Mapping[str, int]) -> LogOdds:
    """The statistic for every term of the two groups.

    Parameters
    ----------
    positive, negative : term -> number of texts of the group that hold it
    background : the same for texts at large. Together with the groups it is the shape of the prior; the prior weighs
        as much as the two groups' mean number of terms.
    """
    n_positive, n_negative = sum(positive.values()), sum(negative.values())
    # Sorted, so that sums and ties don't depend on the hashing of strings.
    vocabulary = sorted(set(positive) | set(negative))
    shape = {term: background.get(term, 0) + positive.get(term, 0) + negative.get(term, 0) for term in vocabulary}
    total = sum(background.values()) + n_positive + n_negative
    weight = (n_positive + n_negative) / 2
    delta, z = {}, {}
    for term in vocabulary:
        prior = weight * shape[term] / total
        a, b = positive.get(term, 0) + prior, negative.get(term, 0) + prior
        rest_a, rest_b = n_positive + weight - a, n_negative + weight - b
        if rest_a <= 0 or rest_b <= 0:  # the vocabulary is a single term
            delta[term] = z[term] = 0.0
            continue
        delta[term] = log(a / rest_a) - log(b / rest_b)
        z[term] = delta[term] / sqrt(1 / a + 1 / b)
    return LogOdds(delta, z)


class KeywordsLabeler(Labeler):
    """Three words a side: those with the largest z-scores that stand in at least two traces of their group.

    Parameters
    ----------
    background : term -> number of texts at large that hold it; the prior
    reference : texts at large; the judge's example of a trace that belongs to neither group
    """

    name = "keywords"
    summary = "offline, free"
    kind = WORDS

    def __init__(self, background: Mapping[str, int] | None = None, reference: Sequence[Trace] = ()) -> None:
        self._background = background or {}
        self._reference = reference

    def prepare(self, examples: Examples, progress: Progress) -> None:
        self._background = examples.background()
        self._reference = examples.reference()

    def label(self, positive: Sequence[Trace], negative: Sequence[Trace], usage_key: str = "") -> Label:
        """The separating words of two groups. Swapped groups give swapped words."""
        odds = log_odds(
            count(trace.terms for trace in positive), count(trace.terms for trace in negative), self._background
        )
        words = _best(odds.z, positive, 1), _best(odds.z, negative, -1)
        if not words[0] or not words[1]:
            raise LabelFailure("no_words", "the texts of one side share no word that the other side lacks")
        return Label(
            positive=words[0],
            negative=words[1],
            details={
                "z": [[round(odds.z[word], 2) for word in words[0]], [round(-odds.z[word], 2) for word in words[1]]],
            },
            evidence=(odds, *self._thresholds(odds, positive, negative)),
        )

    def _thresholds(self, odds: LogOdds, positive: Sequence[Trace], negative: Sequence[Trace]) -> tuple[float, float]:
        """Scores above and below which a trace belongs to a group: half way from texts at large to that group."""
        ground = _mean([mean_z(odds, trace) for trace in self._reference])
        above = _mean([mean_z(odds, trace) for trace in positive])
        below = _mean([mean_z(odds, trace) for trace in negative])
        return (ground + above) / 2, (ground + below) / 2

    def judge(self, label: Label, usage_key: str = "") -> KeywordsJudge:
        return KeywordsJudge(label)


class KeywordsJudge:
    """Picks the trace with the larger mean z-score of its terms, whatever its length."""

    def __init__(self, label: Label) -> None:
        self._odds: LogOdds
        self._odds, self._above, self._below = label.evidence

    def pair(self, one: Trace, other: Trace) -> float:
        a, b = mean_z(self._odds, one), mean_z(self._odds, other)
        return 1.0 if a > b else 0.0 if a < b else 0.5

    def detect(self, trace: Trace) -> str:
        score = mean_z(self._odds, trace)
        if score > self._above and score > self._below:
            return POSITIVE
        return NEGATIVE if score < self._below else NEITHER


def mean_z(odds: LogOdds, trace: Trace) -> float:
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
