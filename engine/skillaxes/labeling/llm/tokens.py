"""Tokens: counted where the model's tokenizer is at hand, else estimated on the safe side; and texts cut to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from skillaxes.labeling.token_estimate import safe_count, safe_spans

HEAD_SHARE = 0.6  # of what is kept of a cut text
LEAST_TOKENS = 32  # a trace cut shorter than this says nothing
MARK_TOKENS = 16  # of the mark at the cut


class Counter(Protocol):
    """Counts tokens and cuts at them."""

    def count(self, text: str) -> int:
        """Tokens of a text, or more."""

    def ends(self, text: str, head: int, tail: int) -> tuple[str, str]:
        """The first ``head`` and the last ``tail`` tokens of a text that has more than both, or less of it."""


class EstimatedTokens:
    """Without a tokenizer: more tokens than there are, by :func:`skillaxes.labeling.pieces.safe_count`."""

    def count(self, text: str) -> int:
        return safe_count(text)

    def ends(self, text: str, head: int, tail: int) -> tuple[str, str]:
        spans = list(safe_spans(text))
        start = used = 0
        for end, tokens in spans:
            if used + tokens > head:
                break
            start, used = end, used + tokens
        stop, used = len(text), 0
        for index in range(len(spans) - 1, -1, -1):
            begin = spans[index - 1][0] if index else 0
            if used + spans[index][1] > tail or begin < start:
                break
            stop, used = begin, used + spans[index][1]
        return text[:start], text[stop:]


class ModelTokens:
    """With the model's own tokenizer (tiktoken's Encoding)."""

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding

    def count(self, text: str) -> int:
        return len(self._encoding.encode(text, disallowed_special=()))

    def ends(self, text: str, head: int, tail: int) -> tuple[str, str]:
        tokens = self._encoding.encode(text, disallowed_special=())
        # A cut may fall into a character of several bytes.
        first = self._encoding.decode(tokens[:head]).rstrip("\ufffd")
        return first, self._encoding.decode(tokens[len(tokens) - tail :]).lstrip("\ufffd") if tail else ""


def counter_for(model: str) -> Counter:
    """The model's tokenizer where tiktoken is installed and knows the model, else an estimate."""
    try:
        tiktoken = import_module("tiktoken")  # no dependency of ours, so no import that a type checker could follow
    except ImportError:
        return EstimatedTokens()
    try:
        return ModelTokens(tiktoken.encoding_for_model(model))
    except Exception:  # an unknown model, or vocabulary files that cannot be fetched here
        return EstimatedTokens()


@dataclass(frozen=True)
class Fitted:
    """A text within its budget.

    Attributes
    ----------
    text : with a mark where something was cut
    tokens : of ``text``, by the counter
    cut : tokens taken out of the middle
    """

    text: str
    tokens: int
    cut: int


class DoesNotFit(Exception):
    """Not even the shortest useful piece of each text fits."""


def fit(texts: Sequence[str], each: int, together: int, counter: Counter) -> list[Fitted]:
    """Cut texts to at most ``each`` tokens, and to ``together`` in all: short ones leave their share to long ones.

    Raises
    ------
    DoesNotFit : less than 32 tokens a text
    """
    counts = [counter.count(text) for text in texts]
    allowed, left = each, together
    waiting = len(counts)
    for size in sorted(min(count, each) for count in counts):
        share = left // waiting
        if size > share:
            allowed = share
            break
        left -= size
        waiting -= 1
    if allowed < LEAST_TOKENS:
        raise DoesNotFit(f"{len(texts)} texts into {together} tokens leaves {max(0, allowed)} tokens a text")
    return [_cut(text, count, allowed, counter) for text, count in zip(texts, counts, strict=True)]


def _cut(text: str, count: int, allowed: int, counter: Counter) -> Fitted:
    if count <= allowed:
        return Fitted(text, count, 0)
    keep = allowed - MARK_TOKENS
    while True:
        head = int(max(0, keep) * HEAD_SHARE)
        first, last = counter.ends(text, head, max(0, keep) - head)
        cut = max(1, count - counter.count(first) - counter.count(last))
        marked = f"{first.rstrip()} [... {cut} tokens cut ...] {last.lstrip()}".strip()
        tokens = counter.count(marked)
        if tokens <= allowed or keep <= 0:
            return Fitted(marked, tokens, cut)
        keep -= tokens - allowed  # the mark took more, or tokens joined differently
