"""A question until it has an answer that can be used: cache, form of reply, one repair, typed failures.

Three rungs: a strict JSON schema, any JSON object, plain text. The highest that the server takes is used; what it
refuses, in whatever manner, is not tried again.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from skillaxes.labeling.client import Client, Reply
from skillaxes.labeling.failures import Refused
from skillaxes.labeling.journal import Cache, key_of
from skillaxes.labeling.prompt import Messages, repair_messages
from skillaxes.labeling.protocol import LabelFailure, Usage
from skillaxes.labeling.replies import Unusable

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
