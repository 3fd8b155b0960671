"""The options of ``label``: one frozen value, checked when it is made.

A field declares its default, its check, its flag and its help once; the command line is made from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

from skillaxes.errors import UsageError
from skillaxes.labeling.labelers import LABELERS, KeywordsLabeler, Labeler
from skillaxes.labeling.texts import PARTS, WINDOWS
from skillaxes.options import as_names, as_path, check, converted, option, option_of

# Panels: groups of options in the help.
LABELS = "labels"
SERVER = "server"


def _labelers_help() -> str:
    *rest, last = [f"{name} ({labeler.summary})" for name, labeler in LABELERS.items()]
    return f"{', '.join(rest)} or {last}." if rest else f"{last}."


def _baselines_help() -> str:
    usual = Labeler.default_baselines
    others = [
        f", {name} {labeler.default_baselines}"
        for name, labeler in LABELERS.items()
        if labeler.default_baselines != usual
    ]
    return f"Random directions and orders to score likewise. [default: {usual}{''.join(others)}]"


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """The options of ``label``; every field is a command line option of the same name.

    Attributes
    ----------
    labeler : a name in ``LABELERS``
    top : traces shown to the labeler a side; None for as many as ``discover`` was asked to keep
    text : ``both``, ``input`` or ``output``: the part of a trace that the label may see
    window : ``store``, the part of the text that the row has seen (the store's token_range), or ``all``
    template : how a record becomes text, ``"{problem}\\n\\n{solution}"``; None for the messages of ``input``, then
        ``output``
    group_by : field whose values are never in both the shown and the scored set; None for the prompt with digits
        and names masked
    disjoint_by : field that the second score keeps apart as well; None for the template of the prompt
    confound : fields of the traces to compare with the directions
    pairs : blind pairs a score is made of
    detections : traces that are judged each alone, a third from either end and a third from between
    samples : labels from so many disjoint samples; their agreement is reported
    baselines : random directions and random orders to label and score in the same way; None for the labeler's default
    seed : of every draw
    model, base_url : the model, and the server when it is not OpenAI's
    trace_tokens : most tokens of one trace in a prompt; head and tail are kept
    context_tokens : tokens the model can hold; None for the price table's figure, 8,192 for an unknown model
    max_output_tokens : cap on a reply, reasoning included; None for no cap, or 4,000 under ``max_cost``
    reasoning_effort, temperature, service_tier : sent only when set
    max_cost : most dollars this command may spend, by the price table
    prices : a price table to use in place of the shipped one
    concurrency : requests in flight at once
    timeout : seconds to wait for a reply
    retries : how often the client repeats a request after a rate limit, a server error or a lost connection
    """

    labeler: str = option(
        KeywordsLabeler.name, choices=tuple(LABELERS), metavar="NAME", panel=LABELS, help=_labelers_help()
    )
    top: int | None = option(
        None, at_least=1, metavar="N", help="Traces shown to the labeler an end. [default: as discover]"
    )
    text: str = option(
        "both", choices=tuple(PARTS), metavar="PART", panel=LABELS,
        help="both, input or output: what the label may see of a trace.",
    )
    window: str = option(
        "store", choices=tuple(WINDOWS), metavar="PART", panel=LABELS,
        help="store (the part of the text that the row has seen) or all.",
    )
    template: str | None = option(
        None, metavar="TEXT", panel=LABELS,
        help="How a record becomes text: '{problem}\\n\\n{solution}'. [default: chat messages]",
    )
    group_by: str | None = option(
        None, metavar="FIELD", panel=LABELS,
        help="Keep rows of one value apart when scoring. [default: similar prompts]",
    )
    disjoint_by: str | None = option(
        None, metavar="FIELD", panel=LABELS, help="Keep this apart as well for the second, disjoint score."
    )
    confound: tuple[str, ...] = option(
        (), convert=as_names, metavar="FIELD", panel=LABELS, help="Hold this field against the directions. Repeatable."
    )
    pairs: int = option(50, at_least=0, metavar="N", panel=LABELS, help="Blind pairs a score is made of.")
    detections: int = option(60, at_least=0, metavar="N", panel=LABELS, help="Traces that are judged each alone.")
    samples: int = option(
        1, at_least=1, metavar="N", panel=LABELS,
        help="Label from N disjoint samples and report how well they agree.",
    )
    baselines: int | None = option(None, at_least=0, metavar="N", panel=LABELS, help=_baselines_help())
    seed: int = option(0, at_least=0, metavar="N", help="Of every draw.")

    model: str = option("gpt-5", metavar="NAME", panel=SERVER, help="The model.")
    base_url: str | None = option(
        None, metavar="URL", panel=SERVER, help="The server, when it is not OpenAI's. The key: $OPENAI_API_KEY."
    )
    trace_tokens: int = option(
        1000, at_least=32, metavar="N", panel=SERVER, help="Most tokens of one trace in a prompt."
    )
    context_tokens: int | None = option(
        None, at_least=512, metavar="N", panel=SERVER,
        help="Tokens the model can hold. [default: by the price table]",
    )
    max_output_tokens: int | None = option(
        None, at_least=1, metavar="N", panel=SERVER, help="Cap on a reply, reasoning included."
    )
    reasoning_effort: str | None = option(None, metavar="HOW", panel=SERVER, help="Sent as it is, when set.")
    temperature: float | None = option(
        None,
        accepts=lambda value: 0 <= value <= 2,
        needs="a number from 0 to 2",
        metavar="T",
        panel=SERVER,
        help="Sent as it is, when set.",
    )
    service_tier: str | None = option(None, metavar="NAME", panel=SERVER, help="Sent as it is, when set.")
    max_cost: float | None = option(
        None,
        accepts=lambda value: value > 0,
        needs="dollars above 0, for example 0.50",
        metavar="USD",
        panel=SERVER,
        help="Spend at most this much, by the price table.",
    )
    prices: Path | None = option(
        None, convert=as_path, metavar="FILE", panel=SERVER, help="A price table in place of the one that comes along."
    )
    concurrency: int = option(8, at_least=1, metavar="N", panel=SERVER, help="Requests under way at once.")
    timeout: float = option(
        300.0,
        accepts=lambda value: value > 0,
        needs="seconds above 0, for example 300",
        metavar="SECONDS",
        panel=SERVER,
        help="How long to wait for a reply.",
    )
    retries: int = option(
        4, at_least=0, metavar="N", panel=SERVER, help="Repeats after a rate limit or a lost connection."
    )

    def __post_init__(self) -> None:
        check(self)
        if self.template is not None and self.text != LabelOptions.text:
            raise UsageError(
                f"--template with --text {self.text}: the template alone says what the text is; leave out --text"
            )

    @property
    def n_baselines(self) -> int:
        """Random directions and random orders to score."""
        return LABELERS[self.labeler].default_baselines if self.baselines is None else self.baselines

    @property
    def output_cap(self) -> int | None:
        """Most tokens of a reply; None where there is no cap."""
        if self.max_output_tokens is None and self.max_cost is not None:
            return 4000
        return self.max_output_tokens

    def result_changing(self) -> dict[str, Any]:
        """The options that change the result, for comparing two jobs.

        Of the options of the server these are the ones that the labeler names; the others say how a job runs and how
        much it may spend.
        """
        ignored = {one.name for one in fields(self) if option_of(one).panel == SERVER}
        ignored -= LABELERS[self.labeler].result_options
        options = {name: value for name, value in asdict(self).items() if name not in ignored}
        options["confound"] = list(self.confound)
        options["baselines"] = self.n_baselines
        return options

    def digest(self, selection_digest: str) -> str:
        """An identifier of the configuration together with the selection it is applied to."""
        return sha256(dumps([self.result_changing(), selection_digest], sort_keys=True).encode()).hexdigest()[:16]


def make_options(**options: Any) -> LabelOptions:
    """A :class:`LabelOptions` from keywords.

    Raises
    ------
    UsageError : an unknown keyword, or a value that does not pass its check
    """
    known = {field.name for field in fields(LabelOptions)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}: the options of label are {', '.join(sorted(known))}")
    return LabelOptions(**{name: converted(LabelOptions, name, value) for name, value in options.items()})
