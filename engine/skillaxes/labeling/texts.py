"""A trace as labeling sees it: its text within the window, its features, its group."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from heapq import nsmallest
from math import ceil
from string import Formatter
from typing import Any
from zlib import crc32

from skillaxes.errors import TracesError, UsageError
from skillaxes.labeling.terms import terms_of
from skillaxes.labeling.token_estimate import cut_at

INPUT = "input"
OUTPUT = "output"


@dataclass(frozen=True)
class Rendered:
    """A record as text.

    Attributes
    ----------
    text : the whole trace
    prompt_end : characters of ``text`` that are the prompt (with the default template; else 0)
    prompt : what grouping looks at: the prompt where there is one, else the text
    """

    text: str
    prompt_end: int
    prompt: str


class Template:
    """Turns records into text: the chat messages of ``input``, then ``output``; or a pattern with ``{field}`` in it.

    A field of a field is ``{meta[answer]}``; braces are doubled to stand for themselves.

    Raises
    ------
    UsageError : a pattern that names no field or cannot be read
    """

    def __init__(self, pattern: str | None = None) -> None:
        self._pieces: list[tuple[str, tuple[str, ...] | None]] | None = None if pattern is None else _parse(pattern)

    def render(self, row: int, record: Mapping[str, Any]) -> Rendered:
        """The text of a record.

        Raises
        ------
        TracesError : a field that the record lacks; the message names those it has
        """
        if self._pieces is None:
            prompt = plain(_field(record, (INPUT,), row)).strip()
            output = plain(_field(record, (OUTPUT,), row)).strip()
            text = "\n\n".join(part for part in (prompt, output) if part)
            return Rendered(text, len(prompt), prompt)
        text = "".join(
            literal + (plain(_field(record, path, row)) if path is not None else "") for literal, path in self._pieces
        ).strip()
        prompt = plain(record[INPUT]).strip() if INPUT in record else text
        return Rendered(text, 0, prompt)


def plain(value: Any) -> str:
    """A field as text: chat messages become their contents, one below the other."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for name in ("content", "text"):
            if name in value:
                return plain(value[name])
        return "\n".join(f"{name}: {plain(part)}" for name, part in value.items())
    if isinstance(value, Sequence):
        return "\n\n".join(part for part in (plain(item) for item in value) if part)
    return str(value)


def _parse(pattern: str) -> list[tuple[str, tuple[str, ...] | None]]:
    pieces: list[tuple[str, tuple[str, ...] | None]] = []
    try:
        for literal, name, spec, conversion in Formatter().parse(pattern):
            if spec or conversion:
                raise ValueError("a field takes no format")
            # A shell hands over a typed \n as two characters.
            pieces.append((literal.replace("\\n", "\n"), None if name is None else _path(name)))
    except ValueError as error:
        raise UsageError(f"--template {pattern!r}: {error}; write fields as {{problem}} or {{meta[answer]}}") from error
    if all(path is None for _, path in pieces):
        raise UsageError(f"--template {pattern!r}: names no field; write for example '{{problem}}\\n\\n{{solution}}'")
    return pieces


def _path(name: str) -> tuple[str, ...]:
    # Plain keys only: format strings proper would reach attributes of objects.
    first, *rest = name.split("[")
    if not first or any(not part.endswith("]") for part in rest):
        raise ValueError(f"field {name!r} cannot be read")
    return (first, *(part[:-1] for part in rest))


def _field(record: Mapping[str, Any], path: tuple[str, ...], row: int) -> Any:
    value: Any = record
    for depth, name in enumerate(path):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list | tuple) and name.lstrip("-").isdigit() and -len(value) <= int(name) < len(value):
            value = value[int(name)]
        else:
            known = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            where = "the record" if depth == 0 else f"field {path[0]!r}"
            raise TracesError(
                f"record {row} of the traces has no field {name!r}: {where} has {known}; "
                f"say with --template how a record becomes text, for example '{{problem}}\\n\\n{{solution}}'"
            )
    return value


# A lower-case word of two letters or more. Names, numbers, variables and signs are what masking takes away.
_PLAIN_WORD = re.compile(r"(?<![^\W\d_])[a-z]{2,}(?![^\W\d_])")
_PRONOUNS = frozenset({"he", "she", "him", "her", "his", "hers"})
_NO_SYMBOL = re.compile(r"[^\W_]+|\s+")
_FAMILY_SHINGLE = 3
SKETCH = 256  # hashes kept of a text
NEAR_DUPLICATE = 0.8  # share of word triples, of the union, from which two texts count as the same
_SKETCHED_WORDS = 4000


@dataclass(frozen=True, eq=False)
class Trace:
    """One text with what choosing and judging need of it.

    Attributes
    ----------
    row, trace_id : which one it is
    text : the part of it that a labeler and a judge may see
    length : characters of the whole trace, whatever the window
    group : what is never in both the shown and the scored set
    template : hash of the masked prompt
    family : hashed word triples of the masked prompt; two prompts of one template share most of them
    fields : the values of the fields that the options name
    """

    row: int
    trace_id: str | None
    text: str
    length: int
    group: str
    template: str
    family: frozenset[int]
    fields: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """The distinct terms of the text, sorted."""
        return tuple(sys.intern(term) for term in sorted(terms_of(self.text)))  # thousands of traces share most of them

    @cached_property
    def near(self) -> tuple[int, ...]:
        """The hashes among which a near-duplicate has at least one, too: the smallest, in order."""
        hashes = self.shingles
        return tuple(nsmallest(len(hashes) - ceil(NEAR_DUPLICATE * len(hashes)) + 1, hashes))

    @cached_property
    def shingles(self) -> frozenset[int]:
        """A sketch of the hashed word triples of the text: near-duplicates share nearly all of them."""
        return shingles(self.text.split(maxsplit=_SKETCHED_WORDS)[:_SKETCHED_WORDS])


@dataclass(frozen=True)
class Features:
    """What confounds are computed from, of one row."""

    length: int
    digits: int
    symbols: int
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Window:
    """The part of the text that a row has seen.

    Attributes
    ----------
    stop : tokens from the front that count; None for all
    known : whether the store says so
    """

    stop: int | None
    known: bool

    def clip(self, text: str) -> str:
        return text if self.stop is None else text[: cut_at(text, self.stop)]


def window_of(choice: str, token_range: Any) -> tuple[Window, str]:
    """The window for ``--window store|all``, and one sentence on it.

    ``token_range`` is what the store says of the tokens that a row has seen: (first, stop), counted from 0 in the
    formatted trace, stop excluded and None for an open end; or a text, or nothing.
    """
    if choice == "all":
        return Window(None, True), "the label sees whole traces (--window all)"
    if isinstance(token_range, list | tuple) and len(token_range) == 2:
        seen = token_range[1]
        if seen is None:
            return Window(None, True), "rows have seen their traces to the end; the label sees whole traces"
        return Window(seen, True), (
            f"rows have seen the first {seen} tokens; the label sees as much, with tokens estimated from the text"
        )
    said = f"only {token_range!r}" if token_range else "nothing"
    return Window(None, False), (
        f"the store says {said} of what part of a text its rows have seen: the label sees whole traces"
    )


def shown_text(rendered: Rendered, text: str, window: Window) -> str:
    """The part of a rendered trace that the label may see."""
    clipped = window.clip(rendered.text)
    if text == "input":
        return clipped[: rendered.prompt_end]
    if text == "output":
        return clipped[rendered.prompt_end :].strip()
    return clipped


def masked(prompt: str) -> list[str]:
    """The words of a prompt without digits, names, variables and signs."""
    return [word for word in _PLAIN_WORD.findall(prompt) if word not in _PRONOUNS]


def shingles(words: list[str], n: int = 3) -> frozenset[int]:
    """Hashes of every ``n`` words in a row, of all words where there are fewer; the smallest 256 of them.

    The smallest hashes of a set are a fair sample of it (Broder 1997), so that long texts cost no more than short ones.
    """
    if len(words) < n:
        return frozenset((crc32(" ".join(words).encode()),)) if words else frozenset()
    hashes = {crc32(" ".join(words[i : i + n]).encode()) for i in range(len(words) - n + 1)}
    return frozenset(hashes if len(hashes) <= SKETCH else nsmallest(SKETCH, hashes))


class Reader:
    """Makes traces of records: renders, clips, groups."""

    def __init__(
        self, template: Template, text: str, window: Window, group_by: str | None, named: tuple[str, ...]
    ) -> None:
        self._template = template
        self._text = text
        self._window = window
        self._group_by = group_by
        self._named = named

    def trace(self, row: int, trace_id: str | None, record: Mapping[str, Any]) -> Trace:
        """A record as a trace."""
        rendered = self._template.render(row, record)
        words = masked(rendered.prompt)
        template = blake2b(" ".join(words).encode(), digest_size=8).hexdigest()
        fields = {name: str(value) for name, value in self.fields(row, record).items()}
        return Trace(
            row=row,
            trace_id=trace_id,
            text=shown_text(rendered, self._text, self._window),
            length=len(rendered.text),
            group=template if self._group_by is None else fields[self._group_by],
            template=template,
            family=shingles(words, _FAMILY_SHINGLE),
            fields=fields,
        )

    def features(self, row: int, record: Mapping[str, Any]) -> Features:
        """What confounds need of a record: of the whole trace, whatever the window."""
        text = self._template.render(row, record).text
        return Features(
            length=len(text),
            digits=sum(map(text.count, "0123456789")),
            symbols=len(_NO_SYMBOL.sub("", text)),
            fields=self.fields(row, record),
        )

    def fields(self, row: int, record: Mapping[str, Any]) -> dict[str, Any]:
        from skillaxes.errors import TracesError

        for name in self._named:
            if name not in record:
                raise TracesError(
                    f"record {row} of the traces has no field {name!r}: it has {', '.join(map(str, record))}"
                )
        return {name: record[name] for name in self._named}
