"""Text as countable terms: words, classes of numbers, signs of mathematics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_TERM = re.compile(
    r"\\[A-Za-z]+"  # LaTeX
    r"|[^\W\d_]+(?:['’][^\W\d_]+)?"  # words
    r"|\d+(?:/\d+|[.]\d+)?"
    r"|\*\*|[<>=!]=|->|=>|\|\||&&|####"
    r"|(?<![^\W\d_])-(?![^\W\d_]{2})"  # a minus, not the hyphen of a compound
    r"|[^\w\s.,;'\"’!`-]"
)

# English function words: they may separate groups, but they name nothing, so they are no keywords.
_FUNCTION_WORDS = (
    "a about after all also am an and any are as at be been before being but by can could did do does each else few "
    "for from had has have he her here hers him his how i if in into is it its just me more most my no nor not of "
    "off on only or other our out over own s same she should so some such t than that the their them then there "
    "these they this those through to too under until up us very was we were what when where which while who whom "
    "why will with would you your "
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def terms_of(text: str) -> set[str]:
    """The distinct terms of a text. Words are lower-cased; numbers stand as their class, ``[2-digit]`` and so on."""
    return {_class_of(term) for term in set(_TERM.findall(text))}


def _class_of(term: str) -> str:
    if not term[0].isdecimal():
        return term.lower() if term[0] != "\\" else term
    if "/" in term:
        return "[fraction]"
    if "." in term:
        return "[decimal]"
    return f"[{len(term)}-digit]" if len(term) <= 3 else "[long number]"


_BRACKETS_AND_STOPS = frozenset("()[]{}:?“”…")


def is_keyword(term: str) -> bool:
    """Whether a term may stand as one of the words of a label."""
    return term not in FUNCTION_WORDS and term not in _BRACKETS_AND_STOPS


def count(texts: Iterable[Iterable[str]]) -> Counter[str]:
    """Term -> number of texts that hold it. A term counts once a text, so that no single text decides."""
    return Counter(term for terms in texts for term in terms)
