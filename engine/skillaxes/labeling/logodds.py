"""Weighted log-odds with an informative Dirichlet prior.

Monroe, Colaresi and Quinn (2008), "Fightin' Words", Political Analysis 16(4), equations 16, 19 and 22.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log, sqrt


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


def count(texts: Iterable[Iterable[str]]) -> Counter[str]:
    """In how many texts each term stands. Counted so, no single text decides."""
    return Counter(term for terms in texts for term in terms)


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
