"""One request to a chat completions server, metered: what it may cost is set aside before it leaves.

The client's own retries are used; each of them is a request of its own here, since a server may charge for each. A
request that never got an answer, or got a server error, counts as spent at its worst case: as many tokens as its body
has bytes, and a reply of full length.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skillaxes.labeling.labels import LabelFailure
from skillaxes.labeling.llm.cache import Journal
from skillaxes.labeling.llm.cost import LimitReached, Price, Purse

_BY_STATUS = {
    401: "authentication",
    403: "permission",
    404: "unknown_model",
    408: "timeout",
    429: "rate_limit",
}
_CONTEXT = re.compile(
    r"context[ _](?:length|window|size)|maximum context|too many tokens|exceed\w* .{0,40}context", re.I
)
_RUNG = re.compile(r"response_format|json_schema|json_object|json mode|structured|schema|grammar|guided", re.I)
_FILTER = re.compile(r"content[ _]filter|content management policy|safety system", re.I)
_CAP = re.compile(r"max_(?:completion_)?tokens", re.I)
_KEY = re.compile(r"\b(?:sk|key|gsk|xai)-[\w*-]{4,}")
_LONGEST = 300


def redacted(text: str, secret: str) -> str:
    """A message in one line, without the key or anything that looks like one."""
    line = " ".join(text.split())
    if secret:
        line = line.replace(secret, "[key]")
    return _KEY.sub("[key]", line)[:_LONGEST]


class Refused(Exception):
    """An HTTP answer that is an error.

    Attributes
    ----------
    status, message, request_id : as the server gave them, the message redacted
    """

    def __init__(self, status: int, message: str, code: str, request_id: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.request_id = request_id

    @property
    def _said(self) -> str:
        return f"{self.code} {self.message}"

    @property
    def over_context(self) -> bool:
        """The prompt is longer than the model can hold."""
        return self.status in (400, 413, 422, 500) and bool(_CONTEXT.search(self._said))

    @property
    def about_format(self) -> bool:
        """The message speaks of the form of reply that was asked for."""
        return self.status in (400, 415, 422, 500, 501) and bool(_RUNG.search(self._said))

    @property
    def perhaps_about_format(self) -> bool:
        """Such a status may mean anything, a form of reply that the server does not know among it."""
        return self.status in (400, 415, 422, 500, 501) and not self.over_context and not _FILTER.search(self._said)

    @property
    def about_cap(self) -> bool:
        """The message speaks of the field that caps the reply."""
        return self.status in (400, 422) and bool(_CAP.search(self._said)) and not self.over_context

    def as_failure(self) -> LabelFailure:
        """The failure that a record carries."""
        if self.over_context:
            kind = "context_overflow"
        elif _FILTER.search(self._said):
            kind = "content_filter"
        elif "insufficient_quota" in self._said:
            kind = "quota"
        elif "model_not_found" in self._said:
            kind = "unknown_model"
        elif self.status >= 500:
            kind = "server_error"
        else:
            kind = _BY_STATUS.get(self.status, "bad_request")
        return LabelFailure(kind, f"HTTP {self.status}: {self.message}", self.request_id, self.status)


def refused(status: int, body: str, request_id: str | None, secret: str) -> Refused:
    """An error answer, its message found wherever servers put it."""
    message, code = body, ""
    try:
        value: Any = json.loads(body)
    except ValueError:
        value = None
    if isinstance(value, dict):
        inner = value.get("error", value)
        if isinstance(inner, dict):
            message = str(inner.get("message") or inner.get("detail") or inner)
            code = str(inner.get("code") or "")
        else:
            message = str(inner)
    return Refused(status, redacted(message, secret), code, request_id)


CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Reply:
    """An answered request.

    Attributes
    ----------
    text : the message; empty when there is none
    finish_reason, refusal : as the server gave them
    cost : dollars, None where the price is unknown
    """

    text: str
    finish_reason: str | None
    refusal: str | None
    model: str | None
    request_id: str | None
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: float | None


class Client:
    """Sends chat completions.

    Parameters
    ----------
    key : the API key; it is in no message and no file
    base_url : the server; None for OpenAI's
    price : of the model; None where it is unknown
    cap : most tokens of a reply; None for no cap
    """

    def __init__(
        self,
        *,
        key: str,
        base_url: str | None,
        timeout: float,
        retries: int,
        price: Price | None,
        cap: int | None,
        purse: Purse,
        ledger: Journal,
    ) -> None:
        import openai

        self._openai = openai
        self._key = key
        self._price = price
        self._cap = cap
        self._purse = purse
        self._ledger = ledger
        self._thread = threading.local()
        self._client = openai.OpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=retries,
            timeout=openai.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._leaving], "response": [self._back]}),
        )

    def send(self, body: Mapping[str, Any], purpose: str) -> Reply:
        """Send one request, with the client's retries.

        Raises
        ------
        Refused : the server answered with an error
        LabelFailure : no answer, no answer that can be read, or no money left
        """
        openai = self._openai
        self._thread.purpose = purpose
        self._thread.open = None
        try:
            raw = self._client.chat.completions.with_raw_response.create(**body)
            text = raw.text if isinstance(raw.text, str) else raw.text()
            reply = self._read(text, raw.headers.get("x-request-id"))
            self._close(reply)
            return reply
        except LimitReached as error:
            raise LabelFailure("max_cost", str(error)) from error
        except openai.APIStatusError as error:
            raise refused(
                error.status_code, error.response.text, error.response.headers.get("x-request-id"), self._key
            ) from None
        except openai.APITimeoutError as error:
            raise LabelFailure("timeout", "no answer in time") from error
        except (openai.APIConnectionError, ConnectionError) as error:
            cause = error.__cause__ or error
            raise LabelFailure("connection", redacted(f"{type(cause).__name__}: {cause}", self._key)) from None
        finally:
            self._close(None)

    def _read(self, text: str, request_id: str | None) -> Reply:
        try:
            body = json.loads(text)
            choice = body["choices"][0]
            message = choice["message"]
            content, refusal = message.get("content"), message.get("refusal")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise LabelFailure(
                "malformed_response", f"the server's answer is no chat completion ({type(error).__name__})", request_id
            ) from None
        if isinstance(content, list):  # some servers send parts
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        usage = body.get("usage")
        known = isinstance(usage, dict) and isinstance(usage.get("prompt_tokens"), int)
        usage = usage if known else {}
        details = usage.get("prompt_tokens_details") or {}
        tokens = (
            _whole(usage.get("prompt_tokens")),
            _whole(details.get("cached_tokens") if isinstance(details, dict) else 0),
            _whole(usage.get("completion_tokens")),
        )
        cost = None
        if self._price is not None:
            # Without usage nobody knows: the worst case then.
            cost = self._price.cost(*tokens) if known else self._worst_open()
        return Reply(
            text=content if isinstance(content, str) else "",
            finish_reason=choice.get("finish_reason"),
            refusal=refusal if isinstance(refusal, str) else None,
            model=body.get("model"),
            request_id=request_id,
            input_tokens=tokens[0],
            cached_input_tokens=tokens[1],
            output_tokens=tokens[2],
            cost=cost,
        )

    def _leaving(self, request: Any) -> None:
        # Called for every request that leaves, retries and redirections among them.
        self._close(None)
        worst = 0.0
        if self._price is not None:
            worst = self._price.cost(len(request.content), 0, self._cap or 0)
        self._purse.reserve(worst)
        self._thread.open = worst
        self._note("sent", worst=worst)

    def _back(self, response: Any) -> None:
        status = response.status_code
        if 300 <= status < 500:  # turned away at the door: nobody charges for that
            self._settle(0.0, "turned_away", status=status, request_id=response.headers.get("x-request-id"))

    def _worst_open(self) -> float:
        return getattr(self._thread, "open", None) or 0.0

    def _close(self, reply: Reply | None) -> None:
        """Settle what is still open: by the reply, or at its worst."""
        if getattr(self._thread, "open", None) is None:
            return
        if reply is None:
            self._settle(self._thread.open, "unanswered")
        else:
            self._settle(
                reply.cost or 0.0,
                "answered",
                request_id=reply.request_id,
                input_tokens=reply.input_tokens,
                cached_input_tokens=reply.cached_input_tokens,
                output_tokens=reply.output_tokens,
            )

    def _settle(self, cost: float, event: str, **more: Any) -> None:
        if getattr(self._thread, "open", None) is None:
            return
        worst, self._thread.open = self._thread.open, None
        self._purse.settle(worst, cost)
        self._note(event, cost=cost, **more)

    def _note(self, event: str, **more: Any) -> None:
        more = {name: round(value, 8) if isinstance(value, float) else value for name, value in more.items()}
        priced = {} if self._price is not None else {"price": "unknown"}
        self._ledger.append(
            {"time": round(time.time(), 3), "purpose": self._thread.purpose, "event": event, **more, **priced}
        )

    def close(self) -> None:
        """Close connections."""
        self._client.close()


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
