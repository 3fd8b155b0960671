"""What ``label`` is asked to do: one frozen value, checked at the door."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

from skillaxes.errors import UsageError

KEYWORDS = "keywords"
OPENAI = "openai"
LABELERS = (KEYWORDS, OPENAI)
TEXTS = ("both", "input", "output")
WINDOWS = ("store", "all")

# Options of the openai labeler that shape what a model answers.
_MODEL_SHAPING = (
    "model", "base_url", "trace_tokens", "context_tokens", "max_output_tokens", "reasoning_effort", "temperature",
    "service_tier",
)  # fmt: skip
# How a job runs or what it may spend, not what comes out of it.
_HOW = frozenset({"max_cost", "prices", "concurrency", "timeout", "retries"})


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """The options of ``label``; every field is a command line option of the same name.

    Attributes
    ----------
    labeler : ``keywords`` (offline, free) or ``openai`` (any server that speaks the chat completions API)
    top : traces shown to the labeler a side; None for as many as ``discover`` was asked to keep
    text : ``both``, ``input`` or ``output``: the part of a trace that the label may see
    window : ``store``, the part of the text that the row has seen (the store's token_range), or ``all``
    template : how a record becomes text, ``"{problem}\\n\\n{solution}"``; None for the messages of ``input``, then
        ``output``
    group_by : field whose values are never in both the shown and the scored set; None for the prompt with digits
        and names masked
    disjoint_by : field that the second score keeps apart as well; None for the template of the prompt
    confound : fields of the traces to hold against the directions
    pairs : blind pairs a score is made of
    detections : traces that are judged each alone, a third from either end and a third from between
    samples : labels from so many disjoint samples; their agreement is reported
    baselines : random directions and random orders to label and score in the same way; None for 20 with
        ``keywords``, 5 with ``openai``
    seed : of every draw
    model, base_url : the model, and the server when it is not OpenAI's
    trace_tokens : most tokens of one trace in a prompt; head and tail are kept
    context_tokens : tokens the model can hold; None for the price table's figure, 8,192 for an unknown model
    max_output_tokens : cap on a reply, reasoning included; None for no cap, or 4,000 under ``max_cost``
    reasoning_effort, temperature, service_tier : sent only when set
    max_cost : most dollars this command may spend, by the price table
    prices : a price table to use in place of the one that comes along
    concurrency : requests under way at once
    timeout : seconds to wait for a reply
    retries : how often the client repeats a request after a rate limit, a server error or a lost connection
    """

    labeler: str = KEYWORDS
    top: int | None = None
    text: str = "both"
    window: str = "store"
    template: str | None = None
    group_by: str | None = None
    disjoint_by: str | None = None
    confound: tuple[str, ...] = ()
    pairs: int = 50
    detections: int = 60
    samples: int = 1
    baselines: int | None = None
    seed: int = 0
    model: str = "gpt-5"
    base_url: str | None = None
    trace_tokens: int = 1000
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    reasoning_effort: str | None = None
    temperature: float | None = None
    service_tier: str | None = None
    max_cost: float | None = None
    prices: Path | None = None
    concurrency: int = 8
    timeout: float = 300.0
    retries: int = 4

    def __post_init__(self) -> None:
        _one_of("labeler", self.labeler, LABELERS)
        _one_of("text", self.text, TEXTS)
        _one_of("window", self.window, WINDOWS)
        for name, least in (
            ("top", 1), ("pairs", 0), ("detections", 0), ("samples", 1), ("baselines", 0), ("seed", 0),
            ("trace_tokens", 32), ("context_tokens", 512), ("max_output_tokens", 1), ("concurrency", 1), ("retries", 0),
        ):  # fmt: skip
            _at_least(name, getattr(self, name), least)
        if self.template is not None and self.text != "both":
            raise UsageError(
                f"--template with --text {self.text}: the template alone says what the text is; leave out --text"
            )
        if self.max_cost is not None and not self.max_cost > 0:
            raise UsageError(f"--max-cost {self.max_cost:g}: needs dollars above 0, for example 0.50")
        if not self.timeout > 0:
            raise UsageError(f"--timeout {self.timeout:g}: needs seconds above 0, for example 300")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise UsageError(f"--temperature {self.temperature:g}: needs a number from 0 to 2")

    @property
    def n_baselines(self) -> int:
        """Random directions and random orders to score."""
        if self.baselines is not None:
            return self.baselines
        return 20 if self.labeler == KEYWORDS else 5

    @property
    def output_cap(self) -> int | None:
        """Most tokens of a reply; None where there is no cap."""
        if self.max_output_tokens is None and self.max_cost is not None:
            return 4000
        return self.max_output_tokens

    def result_changing(self) -> dict[str, Any]:
        """The options that change what comes out, for comparing two jobs."""
        left_out = _HOW if self.labeler == OPENAI else _HOW | set(_MODEL_SHAPING)
        options = {name: value for name, value in asdict(self).items() if name not in left_out}
        options["confound"] = list(self.confound)
        options["baselines"] = self.n_baselines
        return options

    def digest(self, selection_digest: str) -> str:
        """Names a configuration together with the selection it is applied to."""
        return sha256(dumps([self.result_changing(), selection_digest], sort_keys=True).encode()).hexdigest()[:16]


def make_options(**options: Any) -> LabelOptions:
    """A :class:`LabelOptions` from keywords, with a message that names an unknown one."""
    known = {field.name for field in fields(LabelOptions)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}: the options of label are {', '.join(sorted(known))}")
    if options.get("confound") is not None:
        confound = options["confound"]
        options["confound"] = (confound,) if isinstance(confound, str) else tuple(confound)
    if options.get("prices") is not None:
        options["prices"] = Path(options["prices"])
    return LabelOptions(**options)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"--{name} {value}: needs one of {', '.join(choices)}")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is None and name in ("top", "baselines", "context_tokens", "max_output_tokens"):
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"--{name.replace('_', '-')} {value}: needs a whole number of at least {least}")
