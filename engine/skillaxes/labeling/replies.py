"""Making sense of replies: JSON wherever it stands, then lines of ``field: value``, then nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from skillaxes.labeling.protocol import Label

_FIELD_LINE = re.compile(r"^[\s*#\"'-]*([A-Za-z][A-Za-z _]{2,20}?)[\s*\"']*[:=][\s*]*(.+?)[\s*,]*$", re.MULTILINE)
_EDGE = " \t\r\n.,;:!?\"'“”‘’*_`()[]"
_LONGEST_WORD = 32
_MOST_ITEMS = 12
_LONGEST_REPLY = 100_000
_LONGEST_SENTENCE = 400


class Unusable(Exception):
    """A reply that is no answer.

    Attributes
    ----------
    kind : ``unparseable``, ``wrong_schema``, ``not_three_words`` ...
    """

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind


def parse_label(reply: str) -> Label:
    """The label in a reply.

    Raises
    ------
    Unusable : no JSON object or fields in it, a field of the wrong kind, names that are not of three words
    """
    return _last_usable(reply[:_LONGEST_REPLY], _label)


def parse_answer(*answers: str) -> Callable[[str], str]:
    """A parser that finds one of ``answers`` in a reply."""

    def answer(fields: dict[str, Any]) -> str:
        said = str(fields.get("answer", "")).strip(_EDGE).lower()
        for known in answers:
            if said == known.lower():
                return known
        raise Unusable("wrong_schema", f'"answer" must be one of {", ".join(answers)}')

    def parse(reply: str) -> str:
        try:
            return _last_usable(reply[:_LONGEST_REPLY], answer)
        except Unusable:
            # One of the words among others, as long as it is the only one.
            said = [known for known in answers if re.search(_spoken(known), reply)]
            if len(said) != 1 or len(reply) > _LONGEST_SENTENCE:
                raise
            return said[0]

    return parse


def _spoken(known: str) -> str:
    # A single letter is an article or a variable as well.
    return rf"(?i:\bgroup\s+{known}\b)|^\W*{known}\W*$" if len(known) == 1 else rf"(?i:\b{re.escape(known)}\b)"


def _label(fields: dict[str, Any]) -> Label:
    fields = {name.strip().lower().replace(" ", "_"): value for name, value in fields.items()}
    interpretable = fields.get("interpretable", True)
    if isinstance(interpretable, str):
        interpretable = interpretable.strip(_EDGE).lower() not in ("false", "no")
    if not isinstance(interpretable, bool):
        raise Unusable("wrong_schema", '"interpretable" must be true or false')
    missing = [name for name in ("keywords_a", "keywords_b") if name not in fields]
    if missing and interpretable:
        raise Unusable("wrong_schema", f"it lacks {' and '.join(missing)}")
    words = [_three_words(name, fields[name]) if interpretable else () for name in ("keywords_a", "keywords_b")]
    if interpretable and [w.lower() for w in words[0]] == [w.lower() for w in words[1]]:
        raise Unusable("same_name", "both groups have the same name")
    analysis = fields.get("analysis")
    return Label(
        first=words[0],
        second=words[1],
        axes=_texts("axes", fields.get("axes")),
        first_attributes=_texts("attributes_a", fields.get("attributes_a")),
        second_attributes=_texts("attributes_b", fields.get("attributes_b")),
        analysis=analysis if isinstance(analysis, str) else None,
        interpretable=interpretable,
    )


def _three_words(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        value = " ".join(str(part) for part in value)
    if not isinstance(value, str):
        raise Unusable("wrong_schema", f'"{name}" must be a text of three words')
    words = tuple(word.strip(_EDGE) for word in value.split())
    words = tuple(word for word in words if word)
    if len(words) != 3:
        raise Unusable("not_three_words", f'"{name}" has {len(words)} words and must have exactly three')
    if any(len(word) > _LONGEST_WORD or not any(map(str.isalpha, word)) for word in words):
        raise Unusable("not_three_words", f'"{name}" must be three words of a language')
    return words


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part for part in re.split(r"[;\n]", value) if part.strip()]
    if not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        raise Unusable("wrong_schema", f'"{name}" must be a list of texts')
    return tuple(part.strip() for part in value if part.strip())[:_MOST_ITEMS]


def _last_usable(reply: str, read: Callable[[dict[str, Any]], Any]) -> Any:
    # The last one: a reply may quote a trace, and a trace may hold what looks like an answer.
    problem = Unusable("unparseable", "there is no JSON object in it")
    for fields in _objects(reply):
        try:
            return read(fields)
        except Unusable as error:
            if problem.kind == "unparseable":
                problem = error
    raise problem


def _objects(reply: str) -> Iterator[dict[str, Any]]:
    """JSON objects in a reply, the last first; then its lines of ``field: value`` as one."""
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    position = reply.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(reply, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            if isinstance(value, dict):
                found.append(value)
        position = reply.find("{", end)
    yield from reversed(found)
    if not found:
        lines = {name: value.strip("\"'") for name, value in _FIELD_LINE.findall(reply)}
        if lines:
            yield lines
