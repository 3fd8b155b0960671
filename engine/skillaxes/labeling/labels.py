"""A label, the failure to give one, and the tokens and money behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The groups a judge can answer with; the values are keys of labels.jsonl.
POSITIVE, NEGATIVE, NEITHER = "first", "second", "neither"
GROUPS = (POSITIVE, NEGATIVE, NEITHER)


@dataclass(frozen=True)
class Label:
    """The difference between two groups of texts, in words.

    Attributes
    ----------
    positive, negative : the three words of each group; empty for an uninterpretable label
    axes : scales on which the groups differ
    positive_attributes, negative_attributes : properties that most texts of one group share and the other's lack
    analysis : the labeler's reasoning
    interpretable : False when the labeler answers that nothing tells the groups apart
    details : further findings of this labeler, as JSON can hold them
    cuts : row -> (tokens of the trace in the prompt, tokens cut out of it); empty for an offline labeler
    evidence : input of this labeler's judge; never recorded
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    axes: tuple[str, ...] = ()
    positive_attributes: tuple[str, ...] = ()
    negative_attributes: tuple[str, ...] = ()
    analysis: str | None = None
    interpretable: bool = True
    details: dict[str, Any] = field(default_factory=dict)
    cuts: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    evidence: Any = None


class LabelFailure(Exception):
    """The failure of a label or a judgement, with its reason. Never data.

    Attributes
    ----------
    kind : the reason as one identifier, e.g. ``rate_limit``
    message : the reason in one line
    request_id : the server's id of the request, where it gave one
    status : HTTP status, where there was one
    """

    def __init__(self, kind: str, message: str, request_id: str | None = None, status: int | None = None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.request_id = request_id
        self.status = status

    def as_dict(self) -> dict[str, Any]:
        """The failure as a record holds it."""
        return {"kind": self.kind, "message": self.message, "request_id": self.request_id, "status": self.status}


@dataclass(frozen=True)
class Usage:
    """Tokens and money behind the replies that were used, whether from a server or from the cache.

    Attributes
    ----------
    requests : number of replies
    cached : how many of them came from the cache
    input_tokens, cached_input_tokens, output_tokens : as the server counted them
    cost : dollars by the price table; None where the model's price is unknown
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
        """The usage as a record holds it: the same whether a job ran in one go or was interrupted."""
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "output_tokens": self.output_tokens,
        }
