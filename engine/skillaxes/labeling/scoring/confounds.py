"""Confounds of a direction, without any model: length, norm, digits, symbols, fields of the traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import exp, log, sqrt
from typing import Any

import numpy as np

from skillaxes.labeling.selection import DirectionRows, Ranked
from skillaxes.labeling.texts import Features

STRONG = 0.5  # |Spearman| from which a direction counts as confounded
_ENRICHED_SHOWN = 5  # categories listed an end
_Z95 = 1.959963984540054


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """Spearman's rank correlation with mean ranks for ties; None where one side does not vary."""
    x, y = _ranks(np.asarray(a, dtype=np.float64)), _ranks(np.asarray(b, dtype=np.float64))
    x, y = x - x.mean(), y - y.mean()
    scale = sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def confounds(
    sample: Ranked, direction: DirectionRows, features: Mapping[int, Features], named: Sequence[str]
) -> dict[str, Any]:
    """Properties of the rows that vary along with a direction.

    Parameters
    ----------
    sample : rows of the whole store with their scores
    direction : its ends, for categories
    features : row -> features, for every row of ``sample`` and of the ends
    named : fields of the traces to look at; a field of numbers gets a rank correlation, any other is a category

    Returns
    -------
    dict with ``rows`` (of the sample), ``spearman`` (name -> correlation), ``categories`` (field -> end -> the most
    enriched values) and ``confounded_with`` (names with \\|correlation\\| of at least 0.5)
    """
    known = np.array([row in features for row in sample.rows.tolist()], dtype=bool)
    rows, scores, norms = sample.rows[known].tolist(), sample.scores[known], sample.norms[known]
    if len(rows) < 3:
        return {"rows": len(rows), "spearman": {}, "categories": {}, "confounded_with": []}
    mine = [features[row] for row in rows]
    columns: dict[str, Any] = {
        "text length": [f.length for f in mine],
        "row norm": norms,
        "digits": [f.digits for f in mine],
        "symbols": [f.symbols for f in mine],
    }
    categories = {}
    for name in named:
        values = [f.fields[name] for f in mine]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            columns[name] = values
        else:
            categories[name] = {
                side: _enriched_end(name, ranked, rows, features)
                for side, ranked in (("positive", direction.positive), ("negative", direction.negative))
            }
    correlations = {name: spearman(column, scores) for name, column in columns.items()}
    return {
        "rows": len(rows),
        "spearman": {name: None if rho is None else round(rho, 4) for name, rho in correlations.items()},
        "categories": categories,
        "confounded_with": [name for name, rho in correlations.items() if rho is not None and abs(rho) >= STRONG],
    }


def _enriched_end(
    name: str, end: Ranked, sample_rows: Sequence[int], features: Mapping[int, Features]
) -> list[dict[str, Any]]:
    here = [row for row in end.rows.tolist() if row in features]
    inside = set(here)
    return enriched(
        [str(features[row].fields[name]) for row in here],
        [str(features[row].fields[name]) for row in sample_rows if row not in inside],
    )


def enriched(end: Sequence[str], elsewhere: Sequence[str]) -> list[dict[str, Any]]:
    """Values that are more frequent at an end than elsewhere, by the lower bound of their odds ratio.

    The odds ratio is Haldane's (half a case added to each cell), its 95% interval Woolf's; values whose interval
    reaches 1 are left out. ``share`` is of the end, ``share_everywhere`` of both together.
    """
    here, there = Counter(end), Counter(elsewhere)
    found = []
    for value, count in here.items():
        cells = (count, len(end) - count, there[value], len(elsewhere) - there[value])
        a, b, c, d = (cell + 0.5 for cell in cells)
        odds, error = log(a * d / (b * c)), sqrt(1 / a + 1 / b + 1 / c + 1 / d)
        low = exp(odds - _Z95 * error)
        if low > 1:
            found.append((low, value, exp(odds), exp(odds + _Z95 * error), count))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    return [
        {
            "value": value,
            "odds_ratio": round(ratio, 3),
            "low": round(low, 3),
            "high": round(high, 3),
            "share": round(count / len(end), 4),
            "share_everywhere": round((count + there[value]) / (len(end) + len(elsewhere)), 4),
        }
        for low, value, ratio, high, count in found[:_ENRICHED_SHOWN]
    ]
