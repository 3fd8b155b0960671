"""Token sizes of the prompts of a direction, measured on a few of its texts, and their cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillaxes.labeling.labels import Label
from skillaxes.labeling.llm.cost import UNKNOWN_CONTEXT, find_price
from skillaxes.labeling.llm.prompts import Messages, detect_messages, label_messages, pair_messages
from skillaxes.labeling.llm.tokens import DoesNotFit, PromptBudget, counter_for

if TYPE_CHECKING:
    from skillaxes.labeling.examples import DirectionExamples
    from skillaxes.labeling.options import LabelOptions

_MESSAGE_TOKENS = 8  # of the format around a message
_TYPICAL_LABEL = Label(
    ("three", "plain", "words"),
    ("three", "other", "words"),
    positive_attributes=("an attribute of some eight or nine words or so",) * 4,
    negative_attributes=("an attribute of some eight or nine words or so",) * 4,
)


class PromptSizes:
    """See :class:`skillaxes.labeling.labelers.base.RequestSizes`."""

    def __init__(self, options: LabelOptions) -> None:
        entry = find_price(options)
        self._price = entry.price
        self._each = options.trace_tokens
        context = options.context_tokens or entry.context or UNKNOWN_CONTEXT
        self._tokens = PromptBudget(options.output_cap, context).tokens
        self._counter = counter_for(options.model)

    def label(self, direction: DirectionExamples) -> int:
        shown = [[trace.text for trace in side.shown] for side in (direction.positive, direction.negative)]
        try:
            messages, _ = label_messages(shown[0], shown[1], self._each, self._tokens, self._counter)
        except DoesNotFit:
            return 0  # it would be refused here, not sent
        return self._count(messages)

    def pair(self, direction: DirectionExamples) -> int:
        return self._mean(
            [
                pair_messages(_TYPICAL_LABEL, a.text, b.text, self._each, self._tokens, self._counter)
                for a, b in zip(direction.positive.held_out[:4], direction.negative.held_out[:4], strict=False)
            ]
        )

    def detection(self, direction: DirectionExamples) -> int:
        traces = (*direction.positive.held_out[:2], *direction.negative.held_out[:2], *direction.between[:2])
        return self._mean(
            [detect_messages(_TYPICAL_LABEL, trace.text, self._each, self._tokens, self._counter) for trace in traces]
        )

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        return None if self._price is None else self._price.cost(input_tokens, 0, output_tokens)

    def _mean(self, requests: list[Messages]) -> int:
        return sum(map(self._count, requests)) // len(requests) if requests else 0

    def _count(self, messages: Messages) -> int:
        return sum(self._counter.count(message["content"]) + _MESSAGE_TOKENS for message in messages)
