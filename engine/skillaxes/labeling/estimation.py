"""The requests of a labeling job and their cost, before anything is sent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skillaxes.labeling.examples import load_examples
from skillaxes.labeling.labelers import LABELERS
from skillaxes.labeling.options import LabelOptions, make_options
from skillaxes.progress import SILENT, Progress
from skillaxes.run_folder import schema

LABEL_OUTPUT = 1500  # tokens of a reply with some reasoning before it; a guess
JUDGE_OUTPUT = 300


@dataclass(frozen=True)
class Estimate:
    """The requests of a job and their cost.

    Attributes
    ----------
    directions, random_directions, random_orders : directions that are labelled and scored
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
        """Requests in all."""
        return self.labels + self.judgements

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON can hold it."""
        return {**asdict(self), "notes": list(self.notes), "requests": self.requests}


def estimate(
    run_dir: Path | str,
    traces: str | Path,
    *,
    options: LabelOptions | None = None,
    progress: Progress = SILENT,
    **keywords: Any,
) -> Estimate:
    """The requests that :func:`skillaxes.labeling.label` with the same arguments would send.

    Needs no key and sends nothing.

    Raises
    ------
    UsageError, RunFolderError, TracesError : as for ``label``
    """
    options = make_options(**keywords) if options is None else options
    examples = load_examples(Path(run_dir), str(traces), options, progress)
    sizes = LABELERS[options.labeler].request_sizes(options)
    counts = {
        "directions": len(examples.components),
        "random_directions": len(examples.randoms),
        "random_orders": len(examples.orders),
    }
    if sizes is None:
        return Estimate(options.labeler, None, **counts, labels=0, judgements=0, input_tokens=0, output_tokens=0,
                        cost=0.0, max_cost=options.max_cost, notes=examples.notes)  # fmt: skip
    labels = judgements = tokens = 0
    for direction in (*examples.components, *examples.randoms, *examples.orders):
        main = direction.kind == schema.COMPONENT
        sides = direction.positive, direction.negative
        n_labels = options.samples + 1 if main and options.samples > 1 else 1
        labels += n_labels
        tokens += n_labels * sizes.label(direction)
        pairs = min(options.pairs, *(len(side.held_out) for side in sides))
        if main:
            pairs += min(options.pairs, *(len(side.disjoint) for side in sides))
        singles = options.detections // 3 * 3 if main else 0
        judgements += 2 * pairs + singles
        tokens += 2 * pairs * sizes.pair(direction) + singles * sizes.detection(direction)
    cap = options.output_cap
    output = labels * min(LABEL_OUTPUT, cap or LABEL_OUTPUT) + judgements * min(JUDGE_OUTPUT, cap or JUDGE_OUTPUT)
    return Estimate(options.labeler, options.model, **counts, labels=labels, judgements=judgements,
                    input_tokens=tokens, output_tokens=output, cost=sizes.cost(tokens, output),
                    max_cost=options.max_cost, notes=examples.notes)  # fmt: skip
