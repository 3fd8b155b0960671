"""Texts cut to a token budget. Tokens are counted by the model's tokenizer where it is installed, else estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from threading import Lock
from typing import Any, Protocol

from skillaxes.labeling.token_estimate import safe_count, safe_spans

HEAD_SHARE = 0.6  # of the kept part of a cut text
LEAST_TOKENS = 32  # a trace cut shorter than this says nothing
MARK_TOKENS = 16  # of the mark at the cut
_MOST_RESERVE = 16_000  # tokens kept free for a reply without a cap


class TokenCounter(Protocol):
    """Counts the tokens of texts and cuts at token boundaries."""

    def count(self, text: str) -> int:
        """Tokens of a text, or an upper estimate."""

    def ends(self, text: str, head: int, tail: int) -> tuple[str, str]:
        """At most the first ``head`` and the last ``tail`` tokens of a text that has more than both together."""


class EstimatedTokens:
    """Without a tokenizer: an upper estimate by :func:`skillaxes.labeling.token_estimate.safe_count`."""

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


def counter_for(model: str) -> TokenCounter:
    """The model's tokenizer where tiktoken is installed and knows the model, else an estimate."""
    try:
        tiktoken = import_module("tiktoken")  # no dependency of ours, so no import that a type checker could follow
    except ImportError:
        return EstimatedTokens()
    try:
        return ModelTokens(tiktoken.encoding_for_model(model))
    except Exception:  # an unknown model, or vocabulary files that cannot be fetched here
        return EstimatedTokens()


class PromptBudget:
    """Tokens that a prompt may take; halved when a server answers that it takes less.

    Parameters
    ----------
    output_cap : most tokens of a reply; None for no cap
    context : tokens that the model takes, prompt and reply together
    """

    def __init__(self, output_cap: int | None, context: int) -> None:
        reserve = min(output_cap or _MOST_RESERVE, context // 4)
        self.tokens = context - reserve
        self._lock = Lock()

    def halve(self, from_tokens: int) -> None:
        """Half of ``from_tokens``, unless another thread has shrunk it further already."""
        with self._lock:
            self.tokens = min(self.tokens, from_tokens // 2)


@dataclass(frozen=True)
class FittedText:
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
    """The budget has no room for the shortest useful piece of each text."""


def fit(texts: Sequence[str], each: int, together: int, counter: TokenCounter) -> list[FittedText]:
    """Cut texts to at most ``each`` tokens, and to ``together`` in all: short ones leave their share to long ones.

    Raises
    ------
    DoesNotFit : fewer than 32 tokens a text
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


def _cut(text: str, count: int, allowed: int, counter: TokenCounter) -> FittedText:
    if count <= allowed:
        return FittedText(text, count, 0)
    keep = allowed - MARK_TOKENS
    while True:
        head = int(max(0, keep) * HEAD_SHARE)
        first, last = counter.ends(text, head, max(0, keep) - head)
        cut = max(1, count - counter.count(first) - counter.count(last))
        marked = f"{first.rstrip()} [... {cut} tokens cut ...] {last.lstrip()}".strip()
        tokens = counter.count(marked)
        if tokens <= allowed or keep <= 0:
            return FittedText(marked, tokens, cut)
        keep -= tokens - allowed  # the mark took more, or tokens joined differently
