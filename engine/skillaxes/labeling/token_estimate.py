"""Token counts without a tokenizer, from the pieces that subword tokenizers split a text into."""

from __future__ import annotations

import re
from collections.abc import Iterator

# The pieces before byte pairs are merged: words with the space before them, digits, line breaks, signs.
_PIECE = re.compile(r"[ ]?[^\W\d_]{1,16}|\d|\n{1,16}|[ \t\r\f\v]{1,16}|[ ]?(?:[^\w\s]|_)|\s")

_COMMON_WORD = 9  # letters that a frequent word has in one token


def spans(text: str) -> Iterator[tuple[int, int]]:
    """The pieces of a text as (end in characters, tokens), in order. Tokens are an estimate, not a bound."""
    for match in _PIECE.finditer(text):
        piece = match.group()
        if len(piece) == 1 or not piece[-1].isalpha():
            yield match.end(), 1
        elif piece.isascii():
            yield match.end(), 1 + max(0, len(piece) - _COMMON_WORD) // 4
        else:
            yield match.end(), max(1, len(piece.strip()) // 2)


def cut_at(text: str, n_tokens: int) -> int:
    """Characters of ``text`` that about ``n_tokens`` tokens cover."""
    if n_tokens <= 0:
        return 0
    total = 0
    for end, tokens in spans(text):
        total += tokens
        if total >= n_tokens:
            return end
    return len(text)


def safe_spans(text: str) -> Iterator[tuple[int, int]]:
    """The pieces of a text as (end in characters, tokens), in order. Tokens are an upper estimate: digits, signs and
    bytes beyond ASCII count one each, words one for three letters."""
    for match in _PIECE.finditer(text):
        piece = match.group()
        if not piece.isascii():
            yield match.end(), len(piece.encode())
        elif piece[-1].isalpha():
            yield match.end(), -(-len(piece.strip()) // 3)
        else:
            yield match.end(), max(1, len(piece) // 4)


def safe_count(text: str) -> int:
    """Upper estimate of the tokens of a text."""
    return sum(tokens for _, tokens in safe_spans(text))
