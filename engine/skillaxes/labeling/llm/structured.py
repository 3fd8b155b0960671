"""A question until it has an answer that can be used: cache, form of reply, one repair, typed failures.

Three rungs: a strict JSON schema, any JSON object, plain text. The highest that the server takes is used; what it
refuses, in whatever manner, is not tried again.
"""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from skillaxes.labeling.labels import Label, LabelFailure, Usage
from skillaxes.labeling.llm.cache import Cache, key_of
from skillaxes.labeling.llm.client import Client, Refused, Reply
from skillaxes.labeling.llm.prompts import Messages, repair_messages

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


RUNGS = ("json_schema", "json_object", "text")
_CAPS = ("max_completion_tokens", "max_tokens")

T = TypeVar("T")


@dataclass(frozen=True)
class Question(Generic[T]):
    """What is asked.

    Attributes
    ----------
    name : of the schema
    messages : the request
    schema : what the reply must look like
    parse : makes the answer of the reply, or raises :class:`Unusable`
    purpose : what the call is booked under
    """

    name: str
    messages: Messages
    schema: dict[str, Any]
    parse: Callable[[str], T]
    purpose: str


class Asker:
    """Asks a server, and remembers what it takes and what it answered.

    Parameters
    ----------
    client : sends
    cache : replies that were valid
    model : name of the model
    server : what stands for the server in cache keys
    cap : most tokens of a reply; None for no cap
    cap_field : the field's name that is tried first
    settings : further fields of a request, those the user set
    """

    def __init__(
        self,
        client: Client,
        cache: Cache,
        *,
        model: str,
        server: str,
        cap: int | None,
        cap_field: str,
        settings: dict[str, Any],
    ) -> None:
        self._client = client
        self._cache = cache
        self._model = model
        self._server = server
        self._cap = cap
        self._cap_field = cap_field
        self._settings = settings
        self._rung = 0
        self._proven = False  # the present rung has been answered
        self._lock = threading.Lock()
        self._first = threading.Lock()
        self._started = False
        self._usage: dict[str, Usage] = defaultdict(Usage)

    @property
    def rung(self) -> str:
        """The form of reply that is asked for."""
        return RUNGS[self._rung]

    def usage(self, purpose: str | None) -> Usage:
        """What the replies for a purpose, or all of them, took."""
        with self._lock:
            return sum((u for name, u in self._usage.items() if purpose in (None, name)), Usage())

    def ask(self, question: Question[T]) -> T:
        """The answer to a question; nothing is sent when it is in the cache.

        Raises
        ------
        Refused : the prompt is longer than the model can hold
        LabelFailure : no answer that can be used
        """
        for number, rung in enumerate(RUNGS):
            found = self._cache.get(self._key(question, rung))
            if found is not None:
                with self._lock:
                    if number >= self._rung:  # what the server took then, it takes now
                        self._rung, self._proven = number, True
                self._book(question.purpose, found, requests=found.get("requests", 1), cached=True)
                return question.parse(found["text"])
        with self._turn():
            reply, rung = self._send(question, question.messages)
        took, requests = _tokens(reply), 1
        try:
            answer = self._usable(question, reply)
        except Unusable as error:
            reply, rung = self._send(question, repair_messages(question.messages, reply.text, str(error)))
            took, requests = {name: _plus(value, _tokens(reply)[name]) for name, value in took.items()}, 2
            try:
                answer = self._usable(question, reply)
            except Unusable as again:
                raise LabelFailure(again.kind, f"the reply cannot be used: {again}", reply.request_id) from None
        self._cache.put(
            self._key(question, rung),
            {
                "text": reply.text,
                "model": reply.model,
                "request_id": reply.request_id,
                "rung": rung,
                "requests": requests,
                **took,
            },
        )
        return answer

    def _usable(self, question: Question[T], reply: Reply) -> T:
        """The answer in a reply; failures that no repair would mend are raised as such."""
        if reply.refusal:
            raise LabelFailure("refusal", "the model refused to answer", reply.request_id)
        if reply.finish_reason == "content_filter":
            raise LabelFailure("content_filter", "the server's content filter withheld the reply", reply.request_id)
        if reply.finish_reason == "length":
            raise LabelFailure(
                "cut_off", "the reply was cut off at its cap; raise --max-output-tokens", reply.request_id
            )
        if not reply.text.strip():
            raise LabelFailure("empty_reply", "the reply is empty", reply.request_id)
        return question.parse(reply.text)

    def _send(self, question: Question[T], messages: Messages) -> tuple[Reply, str]:
        first: Refused | None = None
        with self._lock:
            rung, proven = self._rung, self._proven
        cap_field, swapped = self._cap_field, False
        while True:
            try:
                reply = self._client.send(self._body(question, messages, RUNGS[rung], cap_field), question.purpose)
            except Refused as refusal:
                first = first or refusal
                if refusal.over_context:
                    raise
                if refusal.about_cap and self._cap is not None and not swapped:
                    cap_field, swapped = _CAPS[1 - _CAPS.index(cap_field)], True
                    continue
                steps_down = refusal.about_format or (not proven and refusal.perhaps_about_format)
                if not steps_down or rung + 1 == len(RUNGS):
                    raise first.as_failure() from None
                rung += 1
                continue
            with self._lock:
                self._cap_field = cap_field
                if rung >= self._rung:
                    self._rung, self._proven = rung, True
            self._book(question.purpose, _tokens(reply), requests=1, cached=False)
            return reply, RUNGS[rung]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The very first request goes alone: it finds out what the server takes."""
        if not self._started:
            with self._first:
                if not self._started:
                    try:
                        yield
                    finally:
                        self._started = True
                    return
        yield

    def _body(self, question: Question[T], messages: Messages, rung: str, cap_field: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model, "messages": messages, **self._settings}
        if self._cap is not None:
            body[cap_field] = self._cap
        if rung == "json_schema":
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": question.name, "strict": True, "schema": question.schema},
            }
        elif rung == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def _key(self, question: Question[T], rung: str) -> str:
        return key_of({"server": self._server, **self._body(question, question.messages, rung, _CAPS[0])})

    def _book(self, purpose: str, took: dict[str, Any], *, requests: int, cached: bool) -> None:
        usage = Usage(
            requests,
            requests if cached else 0,
            took["input_tokens"],
            took["cached_input_tokens"],
            took["output_tokens"],
            took["cost"],
        )
        with self._lock:
            self._usage[purpose] = self._usage[purpose] + usage


def _tokens(reply: Reply) -> dict[str, Any]:
    return {
        "input_tokens": reply.input_tokens,
        "cached_input_tokens": reply.cached_input_tokens,
        "output_tokens": reply.output_tokens,
        "cost": reply.cost,
    }


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
