"""The labeler that asks a language model behind any server that speaks OpenAI's chat completions API."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from skillaxes.errors import UsageError
from skillaxes.labeling.examples import Material
from skillaxes.labeling.labels import FIRST, NAME, NEITHER, SECOND, Label, LabelFailure, Usage
from skillaxes.labeling.llm.cache import LEDGER, Cache, Journal
from skillaxes.labeling.llm.client import Client, Refused
from skillaxes.labeling.llm.cost import UNKNOWN_CONTEXT, Price, Purse, look_up
from skillaxes.labeling.llm.prompts import (
    LABEL_SCHEMA,
    Messages,
    answer_schema,
    detect_messages,
    label_messages,
    pair_messages,
)
from skillaxes.labeling.llm.structured import Asker, Question, parse_answer, parse_label
from skillaxes.labeling.llm.tokens import DoesNotFit, counter_for
from skillaxes.labeling.options import LabelOptions
from skillaxes.labeling.texts import Trace
from skillaxes.progress import Progress

KEY = "OPENAI_API_KEY"
_SERVER = "OPENAI_BASE_URL"  # the client's own variable
_MOST_RESERVE = 16_000  # tokens kept free for a reply where no cap says how many
_SHRINKS = 3  # times the prompt is halved when the server says that it is too long
_PAIR = parse_answer("first", "second")
_DETECT = parse_answer("A", "B", "neither")
_GROUP = {"A": FIRST, "B": SECOND, "neither": NEITHER}


class PromptRoom:
    """Tokens that a prompt may take; shrinks when a server says that it holds less.

    Parameters
    ----------
    options, context : see :class:`LabelOptions`; ``context`` in tokens
    """

    def __init__(self, options: LabelOptions, context: int) -> None:
        reserve = min(options.output_cap or _MOST_RESERVE, context // 4)
        self.tokens = context - reserve
        self._lock = Lock()

    def halve(self, from_tokens: int) -> None:
        """Half of what was too much, unless somebody else has found out already."""
        with self._lock:
            self.tokens = min(self.tokens, from_tokens // 2)


def connector(options: LabelOptions, run_dir: Path) -> Callable[[Material, Progress], OpenAILabeler]:
    """Check what can be checked before anything is read; returns what makes the labeler.

    Raises
    ------
    UsageError : no API key, or a limit of money for a model without a price
    """
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise UsageError(
            f"--labeler openai: {KEY} is not set; type export {KEY}=... (any word for a local server that asks for "
            f"none), or use --labeler keywords, which needs none"
        )
    entry = look_up(options.model, options.service_tier, options.prices)
    if options.max_cost is not None and entry.price is None:
        raise UsageError(
            f"--max-cost {options.max_cost:g}: the price of model {options.model!r} is not known; "
            f"give a table that lists it with --prices FILE"
        )

    def connect(material: Material, progress: Progress) -> OpenAILabeler:
        context = options.context_tokens or entry.context
        if context is None:
            context = UNKNOWN_CONTEXT
            progress.note(
                f"nothing is known of model {options.model!r}: prompts stay within {context:,} tokens; "
                f"say with --context-tokens how many it holds"
            )
        return OpenAILabeler(options, run_dir, key, entry.price, context)

    return connect


class OpenAILabeler:
    """See :class:`skillaxes.labeling.protocol.Labeler`."""

    name = "openai"
    kind = NAME

    def __init__(self, options: LabelOptions, run_dir: Path, key: str, price: Price | None, context: int) -> None:
        self.workers = options.concurrency
        self._options = options
        self._price = price
        self._base_url = options.base_url or os.environ.get(_SERVER) or None
        self._purse = Purse(options.max_cost)
        self._ledger = Journal(run_dir / LEDGER)
        self._cache = Cache(run_dir)
        self._counter = counter_for(options.model)
        self._room = PromptRoom(options, context)
        self._client = Client(
            key=key,
            base_url=self._base_url,
            timeout=options.timeout,
            retries=options.retries,
            price=price,
            cap=options.output_cap,
            purse=self._purse,
            ledger=self._ledger,
        )
        settings = {
            "reasoning_effort": options.reasoning_effort,
            "temperature": options.temperature,
            "service_tier": options.service_tier,
        }
        self._asker = Asker(
            self._client,
            self._cache,
            model=options.model,
            server=without_credentials(self._base_url) or "openai",
            cap=options.output_cap,
            # Servers other than OpenAI's have long known the older name only.
            cap_field="max_completion_tokens" if self._base_url is None else "max_tokens",
            settings={name: value for name, value in settings.items() if value is not None},
        )

    def label(self, first: Sequence[Trace], second: Sequence[Trace], purpose: str = "") -> Label:
        """Ask what tells the groups apart."""

        def ask(room: int) -> Label:
            messages, fitted = label_messages(
                [trace.text for trace in first],
                [trace.text for trace in second],
                self._options.trace_tokens,
                room,
                self._counter,
            )
            cuts = {trace.row: (one.tokens, one.cut) for trace, one in zip((*first, *second), fitted, strict=True)}
            answer = self._asker.ask(Question("label", messages, LABEL_SCHEMA, parse_label, purpose))
            return replace(answer, cuts=cuts)

        return self._within_room(ask)

    def judge(self, label: Label, purpose: str = "") -> OpenAIJudge:
        return OpenAIJudge(self, label, purpose)

    def pair(self, label: Label, one: Trace, other: Trace, purpose: str) -> float:
        """See :meth:`skillaxes.labeling.protocol.Judge.pair`: two requests, one a way round."""
        credit = 0.0
        for a, b, right in ((one, other, "first"), (other, one, "second")):
            answer = self._judged(
                "pair",
                lambda room, a=a, b=b: pair_messages(  # type: ignore[misc]
                    label, a.text, b.text, self._options.trace_tokens, room, self._counter
                ),
                answer_schema("first", "second"),
                _PAIR,
                purpose,
            )
            credit += 0.5 * (answer == right)
        return credit

    def detect(self, label: Label, trace: Trace, purpose: str) -> str:
        """See :meth:`skillaxes.labeling.protocol.Judge.detect`."""
        answer = self._judged(
            "detection",
            lambda room: detect_messages(label, trace.text, self._options.trace_tokens, room, self._counter),
            answer_schema("A", "B", "neither"),
            _DETECT,
            purpose,
        )
        return _GROUP[answer]

    def _judged(
        self,
        name: str,
        messages: Callable[[int], Messages],
        schema: dict[str, Any],
        parse: Callable[[str], str],
        purpose: str,
    ) -> str:
        return self._within_room(lambda room: self._asker.ask(Question(name, messages(room), schema, parse, purpose)))

    def _within_room(self, ask: Callable[[int], Any]) -> Any:
        for attempt in range(_SHRINKS + 1):
            room = self._room.tokens
            try:
                return ask(room)
            except DoesNotFit as error:
                raise LabelFailure(
                    "context_overflow", f"{error}; show fewer traces with --top, or raise --context-tokens"
                ) from None
            except Refused as refusal:
                if attempt == _SHRINKS:
                    raise refusal.as_failure() from None
                self._room.halve(room)
        raise AssertionError("the last attempt returns or raises")

    def usage(self, purpose: str | None = None) -> Usage:
        return self._asker.usage(purpose)

    def describe(self) -> dict[str, Any]:
        return {
            "model": self._options.model,
            "base_url": without_credentials(self._base_url),
            "rung": self._asker.rung,
        }

    def spent(self) -> float | None:
        return None if self._price is None else self._purse.spent

    def stopped_by_cost(self) -> bool:
        return self._purse.refused

    def notes(self) -> tuple[str, ...]:
        if self._purse.refused:
            return (
                f"stopped at --max-cost {self._options.max_cost:g}: some requests were not sent; "
                f"the same command goes on where this one stopped",
            )
        return ()

    def close(self) -> None:
        self._client.close()
        self._cache.close()
        self._ledger.close()


class OpenAIJudge:
    """See :class:`skillaxes.labeling.protocol.Judge`."""

    def __init__(self, labeler: OpenAILabeler, label: Label, purpose: str) -> None:
        self._labeler = labeler
        self._label = label
        self._purpose = purpose

    def pair(self, one: Trace, other: Trace) -> float:
        return self._labeler.pair(self._label, one, other, self._purpose)

    def detect(self, trace: Trace) -> str:
        return self._labeler.detect(self._label, trace, self._purpose)


def without_credentials(url: str | None) -> str | None:
    """A server's address without a user name, a password or a query in it."""
    if url is None:
        return None
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
