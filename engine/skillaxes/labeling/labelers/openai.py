"""The labeler that asks a language model on any server with OpenAI's chat completions API."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from skillaxes.errors import UsageError
from skillaxes.labeling.labelers.base import Labeler
from skillaxes.labeling.labels import Label, LabelFailure, Usage
from skillaxes.run_folder.labels import NAME

if TYPE_CHECKING:
    from pathlib import Path

    from skillaxes.labeling.examples import Examples
    from skillaxes.labeling.labelers.base import RequestSizes
    from skillaxes.labeling.options import LabelOptions
    from skillaxes.labeling.texts import Trace
    from skillaxes.progress import Progress

KEY = "OPENAI_API_KEY"
_SERVER = "OPENAI_BASE_URL"  # the openai client's own variable
_SHRINKS = 3  # times the prompt is halved when the server answers that it is too long

T = TypeVar("T")


class OpenAILabeler(Labeler):
    """A name for the difference, asked of a model; judgements are asked of the same model."""

    name = "openai"
    summary = "any server that speaks its API"
    kind = NAME
    offline = False
    default_baselines = 5
    result_options = frozenset(
        {
            "model", "base_url", "trace_tokens", "context_tokens", "max_output_tokens", "reasoning_effort",
            "temperature", "service_tier",
        }
    )  # fmt: skip

    @classmethod
    def check(cls, options: LabelOptions) -> None:
        """Refuse a job without an API key, and a limit of money for a model without a price."""
        from skillaxes.labeling.llm.cost import find_price

        if not _key():
            raise UsageError(
                f"--labeler {cls.name}: {KEY} is not set; type export {KEY}=... (any word for a local server that asks "
                f"for none), or use --labeler keywords, which needs none"
            )
        if options.max_cost is not None and find_price(options).price is None:
            raise UsageError(
                f"--max-cost {options.max_cost:g}: the price of model {options.model!r} is not known; "
                f"give a table that lists it with --prices FILE"
            )

    @classmethod
    def build(cls, options: LabelOptions, run_dir: Path) -> OpenAILabeler:
        cls.check(options)
        return cls(options, run_dir)

    @classmethod
    def request_sizes(cls, options: LabelOptions) -> RequestSizes:
        from skillaxes.labeling.llm.prompt_sizes import PromptSizes

        return PromptSizes(options)

    def __init__(self, options: LabelOptions, run_dir: Path) -> None:
        from skillaxes.labeling.llm.cache import Cache, usage_log
        from skillaxes.labeling.llm.client import Client
        from skillaxes.labeling.llm.cost import UNKNOWN_CONTEXT, SpendingLimit, find_price
        from skillaxes.labeling.llm.structured import StructuredClient
        from skillaxes.labeling.llm.tokens import PromptBudget, counter_for

        self.workers = options.concurrency
        self._options = options
        self._base_url = options.base_url or os.environ.get(_SERVER) or None
        entry = find_price(options)
        self._price = entry.price
        self._context = options.context_tokens or entry.context
        self._limit = SpendingLimit(options.max_cost)
        self._usage_log = usage_log(run_dir)
        self._cache = Cache(run_dir)
        self._counter = counter_for(options.model)
        self._budget = PromptBudget(options.output_cap, self._context or UNKNOWN_CONTEXT)
        self._client = Client(
            key=_key(),
            base_url=self._base_url,
            timeout=options.timeout,
            retries=options.retries,
            price=entry.price,
            cap=options.output_cap,
            limit=self._limit,
            usage_log=self._usage_log,
        )
        settings = {
            "reasoning_effort": options.reasoning_effort,
            "temperature": options.temperature,
            "service_tier": options.service_tier,
        }
        self._structured = StructuredClient(
            self._client,
            self._cache,
            model=options.model,
            server=without_credentials(self._base_url) or "openai",
            cap=options.output_cap,
            # Servers other than OpenAI's have long known the older name only.
            cap_field="max_completion_tokens" if self._base_url is None else "max_tokens",
            settings={name: value for name, value in settings.items() if value is not None},
        )

    def prepare(self, examples: Examples, progress: Progress) -> None:
        from skillaxes.labeling.llm.cost import UNKNOWN_CONTEXT

        if self._context is None:
            progress.note(
                f"nothing is known of model {self._options.model!r}: prompts stay within {UNKNOWN_CONTEXT:,} tokens; "
                f"say with --context-tokens how many it holds"
            )

    def label(self, positive: Sequence[Trace], negative: Sequence[Trace], usage_key: str = "") -> Label:
        """Ask for the difference between the groups."""
        from skillaxes.labeling.llm.prompts import label_messages
        from skillaxes.labeling.llm.replies import LabelReply
        from skillaxes.labeling.llm.structured import Request

        def ask(prompt_tokens: int) -> Label:
            messages, fitted = label_messages(
                [trace.text for trace in positive],
                [trace.text for trace in negative],
                self._options.trace_tokens,
                prompt_tokens,
                self._counter,
            )
            shown = (*positive, *negative)
            cuts = {trace.row: (one.tokens, one.cut) for trace, one in zip(shown, fitted, strict=True)}
            return replace(self._structured.ask(Request("label", messages, LabelReply, usage_key)).label(), cuts=cuts)

        return self._within_budget(ask)

    def judge(self, label: Label, usage_key: str = "") -> OpenAIJudge:
        return OpenAIJudge(self, label, usage_key)

    def pair(self, label: Label, one: Trace, other: Trace, usage_key: str) -> float:
        """See :meth:`skillaxes.labeling.labelers.base.Judge.pair`: one request for each order."""
        from skillaxes.labeling.llm.prompts import pair_messages
        from skillaxes.labeling.llm.replies import PairReply
        from skillaxes.labeling.llm.structured import Request

        def ask(a: Trace, b: Trace, prompt_tokens: int) -> PairReply:
            messages = pair_messages(label, a.text, b.text, self._options.trace_tokens, prompt_tokens, self._counter)
            return self._structured.ask(Request("pair", messages, PairReply, usage_key))

        credit = 0.0
        for a, b, right in ((one, other, "first"), (other, one, "second")):
            credit += 0.5 * (self._within_budget(partial(ask, a, b)).answer == right)
        return credit

    def detect(self, label: Label, trace: Trace, usage_key: str) -> str:
        """See :meth:`skillaxes.labeling.labelers.base.Judge.detect`."""
        from skillaxes.labeling.llm.prompts import detect_messages
        from skillaxes.labeling.llm.replies import DetectionReply
        from skillaxes.labeling.llm.structured import Request

        def ask(prompt_tokens: int) -> DetectionReply:
            messages = detect_messages(label, trace.text, self._options.trace_tokens, prompt_tokens, self._counter)
            return self._structured.ask(Request("detection", messages, DetectionReply, usage_key))

        return self._within_budget(ask).group()

    def _within_budget(self, ask: Callable[[int], T]) -> T:
        from skillaxes.labeling.llm.client import ServerError
        from skillaxes.labeling.llm.tokens import DoesNotFit

        for attempt in range(_SHRINKS + 1):
            tokens = self._budget.tokens
            try:
                return ask(tokens)
            except DoesNotFit as error:
                raise LabelFailure(
                    "context_overflow", f"{error}; show fewer traces with --top, or raise --context-tokens"
                ) from None
            except ServerError as error:
                if attempt == _SHRINKS:
                    raise error.as_failure() from None
                self._budget.halve(tokens)
        raise AssertionError("the last attempt returns or raises")

    def usage(self, usage_key: str | None = None) -> Usage:
        return self._structured.usage(usage_key)

    def describe(self) -> dict[str, Any]:
        return {
            "model": self._options.model,
            "base_url": without_credentials(self._base_url),
            "rung": self._structured.response_format,
        }

    def spent(self) -> float | None:
        return None if self._price is None else self._limit.spent

    def stopped_by_cost(self) -> bool:
        return self._limit.refused

    def notes(self) -> tuple[str, ...]:
        if self._limit.refused:
            return (
                f"stopped at --max-cost {self._options.max_cost:g}: some requests were not sent; "
                f"the same command goes on where this one stopped",
            )
        return ()

    def close(self) -> None:
        self._client.close()
        self._cache.close()
        self._usage_log.close()


class OpenAIJudge:
    """See :class:`skillaxes.labeling.labelers.base.Judge`."""

    def __init__(self, labeler: OpenAILabeler, label: Label, usage_key: str) -> None:
        self._labeler = labeler
        self._label = label
        self._usage_key = usage_key

    def pair(self, one: Trace, other: Trace) -> float:
        return self._labeler.pair(self._label, one, other, self._usage_key)

    def detect(self, trace: Trace) -> str:
        return self._labeler.detect(self._label, trace, self._usage_key)


def without_credentials(url: str | None) -> str | None:
    """The address of a server without user name, password and query."""
    if url is None:
        return None
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _key() -> str:
    return os.environ.get(KEY, "").strip()
