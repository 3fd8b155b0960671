"""Text as countable terms: words, classes of numbers, signs of mathematics."""

from __future__ import annotations

import re
from collections import Counter

_TERM = re.compile(
    r"(?P<latex>\\[A-Za-z]+)"
    r"|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)?)"
    r"|(?P<fraction>\d+/\d+)"
    r"|(?P<decimal>\d+[.]\d+)"
    r"|(?P<number>\d+)"
    r"|(?P<hyphen>(?<=[^\W\d_])-|-(?=[^\W\d_]{2}))"  # of a compound, no sign
    r"|(?P<sign>\*\*|[<>=!]=|->|=>|\|\||&&|####|[^\w\s.,;'\"’!`])"
)

# English function words: they may separate groups, but they name nothing, so they are not offered as keywords.
_FUNCTION_WORDS = (
    "a about after all also am an and any are as at be been before being but by can could did do does each else few "
    "for from had has have he her here hers him his how i if in into is it its just me more most my no nor not of "
    "off on only or other our out over own s same she should so some such t than that the their them then there "
    "these they this those through to too under until up us very was we were what when where which while who whom "
    "why will with would you your "
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def terms_of(text: str) -> Counter[str]:
    """How often each term occurs. Words are lower-cased; numbers count by class, written ``[2-digit]`` and so on."""
    counts: Counter[str] = Counter()
    for match in _TERM.finditer(text):
        kind, term = match.lastgroup, match.group()
        if kind == "word":
            counts[term.lower()] += 1
        elif kind == "number":
            counts[f"[{len(term)}-digit]" if len(term) <= 3 else "[long number]"] += 1
        elif kind in ("fraction", "decimal"):
            counts[f"[{kind}]"] += 1
        elif kind in ("sign", "latex"):
            counts[term] += 1
    return counts


_BRACKETS_AND_STOPS = frozenset("()[]{}:?“”…")


def is_keyword(term: str) -> bool:
    """Whether a term may stand as one of the words of a label."""
    return term not in FUNCTION_WORDS and term not in _BRACKETS_AND_STOPS
