"""What a labeler is: two methods. A new one goes into a file of its own and into :func:`skillaxes.labeling.label`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WORDS = "words"  # terms that separate the groups
NAME = "name"  # what somebody who read them would call the difference

FIRST, SECOND, NEITHER = "first", "second", "neither"
GROUPS = (FIRST, SECOND, NEITHER)


@dataclass(frozen=True)
class Label:
    """What tells two groups of texts apart.

    Attributes
    ----------
    first, second : the three words of each group; empty when nothing could be said
    interpretable : False when the labeler says that nothing tells the groups apart
    details : what only this labeler has to say, as JSON can hold it
    cuts : row -> tokens of a trace in the prompt, and tokens cut out of it; empty for an offline labeler
    evidence : what this labeler's judge needs; never recorded
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    axes: tuple[str, ...] = ()
    first_attributes: tuple[str, ...] = ()
    second_attributes: tuple[str, ...] = ()
    analysis: str | None = None
    interpretable: bool = True
    details: dict[str, Any] = field(default_factory=dict)
    cuts: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    evidence: Any = None


class LabelFailure(Exception):
    """No label, or no verdict of a judge, and why. Never data.

    Attributes
    ----------
    kind : one word for it, e.g. ``rate_limit``
    request_id : the server's name for the request, where it gave one
    status : HTTP status, where there was one
    """

    def __init__(self, kind: str, message: str, request_id: str | None = None, status: int | None = None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.request_id = request_id
        self.status = status

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "message": self.message, "request_id": self.request_id, "status": self.status}


@dataclass(frozen=True)
class Usage:
    """Tokens and money behind the replies that were used, whenever they were asked for.

    Attributes
    ----------
    cost : dollars by the price table; None where the model's price is unknown
    requests : replies, of which ``cached`` were on disk already
    """

    requests: int = 0
    cached: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.cached + other.cached,
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            None if self.cost is None or other.cost is None else self.cost + other.cost,
        )

    def as_dict(self) -> dict[str, int]:
        """What a record says: the same whether the command was cut off and run again or not."""
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "output_tokens": self.output_tokens,
        }
