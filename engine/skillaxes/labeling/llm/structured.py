"""Structured replies from a server: cache, response format, one repair, typed failures.

There are three response formats: a strict JSON schema, any JSON object, plain text. The first that the server takes is
used; one that it rejects, with any error, is not tried again.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

from skillaxes.labeling.labels import LabelFailure, Usage
from skillaxes.labeling.llm.cache import Cache, digest
from skillaxes.labeling.llm.client import Client, Reply, ServerError
from skillaxes.labeling.llm.prompts import Messages, repair_messages
from skillaxes.labeling.llm.replies import M, UnusableReply, read_reply

RESPONSE_FORMATS = ("json_schema", "json_object", "text")
_CAP_FIELDS = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True)
class Request(Generic[M]):
    """A question to the model.

    Attributes
    ----------
    name : of the schema
    messages : the question
    reply : the form of the reply
    usage_key : the key that its usage is summed under
    """

    name: str
    messages: Messages
    reply: type[M]
    usage_key: str


class StructuredClient:
    """Sends requests until a reply validates; keeps valid replies and the response format that the server takes.

    Parameters
    ----------
    client : sends
    cache : valid replies
    model : name of the model
    server : the server's name in cache keys
    cap : most tokens of a reply; None for no cap
    cap_field : the field for the cap that is tried first
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
        self._format = 0  # index into RESPONSE_FORMATS
        self._proven = False  # the server has answered a request in this format
        self._lock = threading.Lock()
        self._probe = threading.Lock()
        self._probed = False
        self._usage: dict[str, Usage] = defaultdict(Usage)

    @property
    def response_format(self) -> str:
        """The response format in use."""
        return RESPONSE_FORMATS[self._format]

    def usage(self, usage_key: str | None) -> Usage:
        """The usage under one key, or in all."""
        with self._lock:
            return sum((u for name, u in self._usage.items() if usage_key in (None, name)), Usage())

    def ask(self, request: Request[M]) -> M:
        """The reply to a request; nothing is sent when it is in the cache.

        Raises
        ------
        ServerError : the prompt is longer than the model can hold
        LabelFailure : no usable reply
        """
        for number, name in enumerate(RESPONSE_FORMATS):
            found = self._cache.get(self._cache_key(request, name))
            if found is not None:
                with self._lock:
                    if number >= self._format:  # the server took it then, so it takes it now
                        self._format, self._proven = number, True
                self._add_usage(request.usage_key, found, requests=found.get("requests", 1), cached=True)
                return read_reply(request.reply, found["text"])
        with self._probe_first():
            reply, used_format = self._send(request, request.messages)
        took, requests = _usage_of(reply), 1
        try:
            answer = self._validated(request, reply)
        except UnusableReply as error:
            reply, used_format = self._send(request, repair_messages(request.messages, reply.text, str(error)))
            took, requests = {name: _plus(value, _usage_of(reply)[name]) for name, value in took.items()}, 2
            try:
                answer = self._validated(request, reply)
            except UnusableReply as again:
                raise LabelFailure(again.kind, f"the reply cannot be used: {again}", reply.request_id) from None
        self._cache.put(
            self._cache_key(request, used_format),
            {
                "text": reply.text,
                "model": reply.model,
                "request_id": reply.request_id,
                "rung": used_format,
                "requests": requests,
                **took,
            },
        )
        return answer

    def _validated(self, request: Request[M], reply: Reply) -> M:
        """The reply as a model; failures that no repair would mend are raised as such."""
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
        return read_reply(request.reply, reply.text)

    def _send(self, request: Request[M], messages: Messages) -> tuple[Reply, str]:
        first: ServerError | None = None
        with self._lock:
            number, proven = self._format, self._proven
        cap_field, swapped = self._cap_field, False
        while True:
            try:
                body = self._body(request, messages, RESPONSE_FORMATS[number], cap_field)
                reply = self._client.send(body, request.usage_key)
            except ServerError as error:
                first = first or error
                if error.over_context:
                    raise
                if error.rejects_max_tokens and self._cap is not None and not swapped:
                    cap_field, swapped = _CAP_FIELDS[1 - _CAP_FIELDS.index(cap_field)], True
                    continue
                falls_back = error.rejects_format or (not proven and error.may_reject_format)
                if not falls_back or number + 1 == len(RESPONSE_FORMATS):
                    raise first.as_failure() from None
                number += 1
                continue
            with self._lock:
                self._cap_field = cap_field
                if number >= self._format:
                    self._format, self._proven = number, True
            self._add_usage(request.usage_key, _usage_of(reply), requests=1, cached=False)
            return reply, RESPONSE_FORMATS[number]

    @contextmanager
    def _probe_first(self) -> Iterator[None]:
        """Let the very first request go alone: it finds the response format that the server takes."""
        if not self._probed:
            with self._probe:
                if not self._probed:
                    try:
                        yield
                    finally:
                        self._probed = True
                    return
        yield

    def _body(self, request: Request[M], messages: Messages, response_format: str, cap_field: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model, "messages": messages, **self._settings}
        if self._cap is not None:
            body[cap_field] = self._cap
        if response_format == "json_schema":
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": request.name, "strict": True, "schema": request.reply.strict_schema()},
            }
        elif response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def _cache_key(self, request: Request[M], response_format: str) -> str:
        body = self._body(request, request.messages, response_format, _CAP_FIELDS[0])
        return digest({"server": self._server, **body})

    def _add_usage(self, usage_key: str, took: dict[str, Any], *, requests: int, cached: bool) -> None:
        usage = Usage(
            requests,
            requests if cached else 0,
            took["input_tokens"],
            took["cached_input_tokens"],
            took["output_tokens"],
            took["cost"],
        )
        with self._lock:
            self._usage[usage_key] = self._usage[usage_key] + usage


def _usage_of(reply: Reply) -> dict[str, Any]:
    return {
        "input_tokens": reply.input_tokens,
        "cached_input_tokens": reply.cached_input_tokens,
        "output_tokens": reply.output_tokens,
        "cost": reply.cost,
    }


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
