"""A metered client of a chat completions server: the worst-case cost of a request is reserved before it is sent.

The openai client's own retries are used. Each is metered as a request of its own, since a server may charge for each. A
request that got no answer, or a server error, is recorded at its worst case: as many input tokens as its body has
bytes, and a reply of full length.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillaxes.labeling.labels import LabelFailure
from skillaxes.labeling.llm.cost import LimitReached, Price, SpendingLimit

if TYPE_CHECKING:
    from skillaxes.labeling.llm.cache import JsonLines

CONNECT_SECONDS = 10.0

_KIND_OF_STATUS = {
    401: "authentication",
    403: "permission",
    404: "unknown_model",
    408: "timeout",
    429: "rate_limit",
}
_CONTEXT = re.compile(
    r"context[ _](?:length|window|size)|maximum context|too many tokens|exceed\w* .{0,40}context", re.I
)
_FORMAT = re.compile(r"response_format|json_schema|json_object|json mode|structured|schema|grammar|guided", re.I)
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


class ServerError(Exception):
    """An HTTP response with an error status.

    Attributes
    ----------
    status, code, request_id : as the server gave them
    message : the server's, redacted
    """

    def __init__(self, status: int, message: str, code: str, request_id: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.request_id = request_id

    @property
    def _code_and_message(self) -> str:
        return f"{self.code} {self.message}"

    @property
    def over_context(self) -> bool:
        """The prompt is longer than the model can hold."""
        return self.status in (400, 413, 422, 500) and bool(_CONTEXT.search(self._code_and_message))

    @property
    def rejects_format(self) -> bool:
        """The message names the response format."""
        return self.status in (400, 415, 422, 500, 501) and bool(_FORMAT.search(self._code_and_message))

    @property
    def may_reject_format(self) -> bool:
        """The status may mean anything, an unknown response format included."""
        return (
            self.status in (400, 415, 422, 500, 501)
            and not self.over_context
            and not _FILTER.search(self._code_and_message)
        )

    @property
    def rejects_max_tokens(self) -> bool:
        """The message names the field that caps the reply."""
        return self.status in (400, 422) and bool(_CAP.search(self._code_and_message)) and not self.over_context

    def as_failure(self) -> LabelFailure:
        """The failure that a record holds."""
        if self.over_context:
            kind = "context_overflow"
        elif _FILTER.search(self._code_and_message):
            kind = "content_filter"
        elif "insufficient_quota" in self._code_and_message:
            kind = "quota"
        elif "model_not_found" in self._code_and_message:
            kind = "unknown_model"
        elif self.status >= 500:
            kind = "server_error"
        else:
            kind = _KIND_OF_STATUS.get(self.status, "bad_request")
        return LabelFailure(kind, f"HTTP {self.status}: {self.message}", self.request_id, self.status)


def server_error(status: int, body: str, request_id: str | None, secret: str) -> ServerError:
    """The error in a response; servers put its message in different places."""
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
    return ServerError(status, redacted(message, secret), code, request_id)


@dataclass(frozen=True)
class Reply:
    """The reply to a request.

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
    timeout : seconds to wait for a reply
    retries : repeats of a request by the openai client
    price : of the model; None where it is unknown
    cap : most tokens of a reply; None for no cap
    limit : of spending
    usage_log : one line when a request is sent, and one when its cost is known
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
        limit: SpendingLimit,
        usage_log: JsonLines,
    ) -> None:
        import openai

        self._openai = openai
        self._key = key
        self._price = price
        self._cap = cap
        self._limit = limit
        self._usage_log = usage_log
        # The hooks below get no argument of ours: `usage_key`, and the dollars `reserved` for the request in flight.
        self._thread = threading.local()
        self._client = openai.OpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=retries,
            timeout=openai.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [self._on_request], "response": [self._on_response]}
            ),
        )

    def send(self, body: Mapping[str, Any], usage_key: str) -> Reply:
        """Send one request, with the openai client's retries.

        Raises
        ------
        ServerError : the server answered with an error
        LabelFailure : no answer, no answer that can be read, or no money left
        """
        openai = self._openai
        self._thread.usage_key = usage_key
        self._thread.reserved = None
        try:
            raw = self._client.chat.completions.with_raw_response.create(**body)
            text = raw.text if isinstance(raw.text, str) else raw.text()
            reply = self._read(text, raw.headers.get("x-request-id"))
            self._record_reply(reply)
            return reply
        except LimitReached as error:
            raise LabelFailure("max_cost", str(error)) from error
        except openai.APIStatusError as error:
            raise server_error(
                error.status_code, error.response.text, error.response.headers.get("x-request-id"), self._key
            ) from None
        except openai.APITimeoutError as error:
            raise LabelFailure("timeout", "no answer in time") from error
        except (openai.APIConnectionError, ConnectionError) as error:
            cause = error.__cause__ or error
            raise LabelFailure("connection", redacted(f"{type(cause).__name__}: {cause}", self._key)) from None
        finally:
            self._record_unanswered()

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
            _count(usage.get("prompt_tokens")),
            _count(details.get("cached_tokens") if isinstance(details, dict) else 0),
            _count(usage.get("completion_tokens")),
        )
        cost = None
        if self._price is not None:
            # A reply without usage is recorded at the worst case.
            cost = self._price.cost(*tokens) if known else self._reserved or 0.0
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

    @property
    def _reserved(self) -> float | None:
        """Dollars reserved for the request that this thread has in flight; None without one."""
        return getattr(self._thread, "reserved", None)

    def _on_request(self, request: Any) -> None:
        # Called for every request that is sent, retries and redirections included.
        self._record_unanswered()
        worst = 0.0
        if self._price is not None:
            worst = self._price.cost(len(request.content), 0, self._cap or 0)
        self._limit.reserve(worst)
        self._thread.reserved = worst
        self._log("sent", worst=worst)

    def _on_response(self, response: Any) -> None:
        status = response.status_code
        if 300 <= status < 500:  # rejected before the model ran: nobody charges for that
            self._record(0.0, "turned_away", status=status, request_id=response.headers.get("x-request-id"))

    def _record_reply(self, reply: Reply) -> None:
        self._record(
            reply.cost or 0.0,
            "answered",
            request_id=reply.request_id,
            input_tokens=reply.input_tokens,
            cached_input_tokens=reply.cached_input_tokens,
            output_tokens=reply.output_tokens,
        )

    def _record_unanswered(self) -> None:
        self._record(self._reserved or 0.0, "unanswered")

    def _record(self, cost: float, event: str, **more: Any) -> None:
        """Record the request in flight, if there is one."""
        worst = self._reserved
        if worst is None:
            return
        self._thread.reserved = None
        self._limit.record(worst, cost)
        self._log(event, cost=cost, **more)

    def _log(self, event: str, **more: Any) -> None:
        more = {name: round(value, 8) if isinstance(value, float) else value for name, value in more.items()}
        priced = {} if self._price is not None else {"price": "unknown"}
        self._usage_log.append(
            {"time": round(time.time(), 3), "purpose": self._thread.usage_key, "event": event, **more, **priced}
        )

    def close(self) -> None:
        """Close connections."""
        self._client.close()


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
