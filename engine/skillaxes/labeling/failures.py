"""What can go wrong with a request, as kinds of failure that a record can carry."""

from __future__ import annotations

import json
import re
from typing import Any

from skillaxes.labeling.protocol import LabelFailure

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
