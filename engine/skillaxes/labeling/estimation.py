"""What a labeling job would send and cost, before anything is sent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skillaxes.labeling.examples import Choice, Material, gather
from skillaxes.labeling.labels import Label
from skillaxes.labeling.llm.cost import UNKNOWN_CONTEXT, look_up
from skillaxes.labeling.llm.prompts import detect_messages, label_messages, pair_messages
from skillaxes.labeling.llm.tokens import DoesNotFit, counter_for
from skillaxes.labeling.options import KEYWORDS, LabelOptions, make_options
from skillaxes.progress import SILENT, Progress

LABEL_OUTPUT = 1500  # tokens of a reply with some reasoning before it; a guess
JUDGE_OUTPUT = 300
_STAND_IN = Label(
    ("three", "plain", "words"),
    ("three", "other", "words"),
    first_attributes=("an attribute of some eight or nine words or so",) * 4,
    second_attributes=("an attribute of some eight or nine words or so",) * 4,
)


@dataclass(frozen=True)
class Estimate:
    """What a job would take.

    Attributes
    ----------
    directions, random_directions, random_orders : what is labelled and scored
    labels, judgements : requests of either kind
    input_tokens : an upper estimate unless the model's tokenizer is at hand
    output_tokens : a guess: 1,500 a label, 300 a judgement, or the cap if it is lower
    cost : dollars, without the provider's discount for repeated prefixes; None where the price is unknown
    max_cost : the hard limit that was given
    """

    labeler: str
    model: str | None
    directions: int
    random_directions: int
    random_orders: int
    labels: int
    judgements: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    max_cost: float | None
    notes: tuple[str, ...]

    @property
    def requests(self) -> int:
        return self.labels + self.judgements

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes), "requests": self.requests}


def estimate(
    run_dir: Path | str,
    traces: str | Path,
    *,
    options: LabelOptions | None = None,
    progress: Progress = SILENT,
    **keywords: Any,
) -> Estimate:
    """What :func:`skillaxes.labeling.label` with the same arguments would send; needs no key and sends nothing.

    Raises
    ------
    UsageError, RunFolderError, TracesError : as for ``label``
    """
    options = make_options(**keywords) if options is None else options
    material = gather(Path(run_dir), str(traces), options, progress)
    offline = options.labeler == KEYWORDS
    counts = {
        "directions": len(material.components),
        "random_directions": len(material.randoms),
        "random_orders": len(material.orders),
    }
    if offline:
        return Estimate(options.labeler, None, **counts, labels=0, judgements=0, input_tokens=0, output_tokens=0,
                        cost=0.0, max_cost=options.max_cost, notes=material.notes)  # fmt: skip
    entry = look_up(options.model, options.service_tier, options.prices)
    size = _Sizes(options, options.context_tokens or entry.context or UNKNOWN_CONTEXT)
    labels = judgements = tokens = 0
    for choice in _all(material):
        main = choice.kind == "component"
        sides = choice.first, choice.second
        n_labels = options.samples + 1 if main and options.samples > 1 else 1
        labels += n_labels
        tokens += n_labels * size.label(choice)
        pairs = min(options.pairs, *(len(side.held_out) for side in sides))
        if main:
            pairs += min(options.pairs, *(len(side.disjoint) for side in sides))
        singles = options.detections // 3 * 3 if main else 0
        judgements += 2 * pairs + singles
        tokens += 2 * pairs * size.pair(choice) + singles * size.single(choice)
    cap = options.output_cap
    output = labels * min(LABEL_OUTPUT, cap or LABEL_OUTPUT) + judgements * min(JUDGE_OUTPUT, cap or JUDGE_OUTPUT)
    cost = None if entry.price is None else entry.price.cost(tokens, 0, output)
    return Estimate(options.labeler, options.model, **counts, labels=labels, judgements=judgements,
                    input_tokens=tokens, output_tokens=output, cost=cost, max_cost=options.max_cost,
                    notes=material.notes)  # fmt: skip


class _Sizes:
    """Tokens of prompts, from a few texts of each direction."""

    def __init__(self, options: LabelOptions, context: int) -> None:
        from skillaxes.labeling.labelers.openai import PromptRoom

        self._each = options.trace_tokens
        self._room = PromptRoom(options, context).tokens
        self._counter = counter_for(options.model)

    def label(self, choice: Choice) -> int:
        shown = [[trace.text for trace in side.shown] for side in (choice.first, choice.second)]
        try:
            messages, _ = label_messages(shown[0], shown[1], self._each, self._room, self._counter)
        except DoesNotFit:
            return 0  # it would be refused here, not sent
        return self._count(messages)

    def pair(self, choice: Choice) -> int:
        return self._mean(
            [
                pair_messages(_STAND_IN, a.text, b.text, self._each, self._room, self._counter)
                for a, b in zip(choice.first.held_out[:4], choice.second.held_out[:4], strict=False)
            ]
        )

    def single(self, choice: Choice) -> int:
        texts = [trace.text for trace in (*choice.first.held_out[:2], *choice.second.held_out[:2], *choice.between[:2])]
        return self._mean([detect_messages(_STAND_IN, text, self._each, self._room, self._counter) for text in texts])

    def _mean(self, requests: list[list[dict[str, str]]]) -> int:
        return sum(map(self._count, requests)) // len(requests) if requests else 0

    def _count(self, messages: list[dict[str, str]]) -> int:
        return sum(self._counter.count(message["content"]) + 8 for message in messages)


def _all(material: Material) -> tuple[Choice, ...]:
    return (*material.components, *material.randoms, *material.orders)
