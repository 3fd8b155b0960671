"""From a record of the traces to its text: template, window, part, masking, sketches, features."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
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
SKETCH = 256  # hashes kept of a text
NEAR_DUPLICATE = 0.8  # share of word triples, of the union, from which two texts count as the same

# A lower-case word of two letters or more: masking removes names, numbers, variables and signs.
_PLAIN_WORD = re.compile(r"(?<![^\W\d_])[a-z]{2,}(?![^\W\d_])")
_PRONOUNS = frozenset({"he", "she", "him", "her", "his", "hers"})
_NO_SYMBOL = re.compile(r"[^\W_]+|\s+")
_FAMILY_SHINGLE = 3
_SKETCHED_WORDS = 4000


@dataclass(frozen=True)
class Rendered:
    """A record as text.

    Attributes
    ----------
    text : the whole trace
    prompt_end : characters of ``text`` that are the prompt (with the default template; else 0)
    prompt : the text for grouping: the prompt where there is one, else the whole text
    """

    text: str
    prompt_end: int
    prompt: str


class Template:
    """A pattern with ``{field}`` in it that turns records into text; without one, the messages of ``input``, then
    ``output``.

    A field of a field is ``{meta[answer]}``; doubled braces stand for single ones.

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
    """A field as text; of chat messages their contents, one below the other."""
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


@dataclass(frozen=True, eq=False)
class Trace:
    """A text with its group and its sketches, as labeling uses it.

    Attributes
    ----------
    row, trace_id : the row of the store and its id there
    text : the part of the trace that a labeler and a judge may see
    length : characters of the whole trace, beyond the window too
    group : the shown and the scored set have no group in common
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
    def prefix_hashes(self) -> tuple[int, ...]:
        """The smallest hashes of the sketch, in order, so many that every near-duplicate shares one of them."""
        hashes = self.shingles
        return tuple(nsmallest(len(hashes) - ceil(NEAR_DUPLICATE * len(hashes)) + 1, hashes))

    @cached_property
    def shingles(self) -> frozenset[int]:
        """A sketch of the hashed word triples of the text: near-duplicates share nearly all of them."""
        return shingles(self.text.split(maxsplit=_SKETCHED_WORDS)[:_SKETCHED_WORDS])


@dataclass(frozen=True)
class Features:
    """The properties of one row that confounds are computed from."""

    length: int
    digits: int
    symbols: int
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Window:
    """The part of a text that its row has seen.

    Attributes
    ----------
    stop : tokens from the front that count; None for all
    known : whether the store says which part it is
    """

    stop: int | None
    known: bool

    def clip(self, text: str) -> str:
        """The part of ``text`` within the window."""
        return text if self.stop is None else text[: cut_at(text, self.stop)]


def _whole_traces(token_range: Any) -> tuple[Window, str]:
    return Window(None, True), "the label sees whole traces (--window all)"


def _seen_by_row(token_range: Any) -> tuple[Window, str]:
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


WINDOWS: dict[str, Callable[[Any], tuple[Window, str]]] = {"store": _seen_by_row, "all": _whole_traces}


def window_of(choice: str, token_range: Any) -> tuple[Window, str]:
    """The window for a choice of ``WINDOWS``, and one sentence on it.

    Parameters
    ----------
    token_range : the tokens that a row has seen, by the store: (first, stop), counted from 0 in the formatted trace,
        stop excluded and None for an open end; or a text, or nothing
    """
    return WINDOWS[choice](token_range)


# Choice -> the part of a text, given the text and where its prompt ends.
PARTS: dict[str, Callable[[str, int], str]] = {
    "both": lambda text, prompt_end: text,
    "input": lambda text, prompt_end: text[:prompt_end],
    "output": lambda text, prompt_end: text[prompt_end:].strip(),
}


def shown_text(rendered: Rendered, part: str, window: Window) -> str:
    """The part of a rendered trace that the label may see; ``part`` is one of ``PARTS``."""
    return PARTS[part](window.clip(rendered.text), rendered.prompt_end)


def masked(prompt: str) -> list[str]:
    """The words of a prompt without digits, names, variables and signs."""
    return [word for word in _PLAIN_WORD.findall(prompt) if word not in _PRONOUNS]


def shingles(words: list[str], n: int = 3) -> frozenset[int]:
    """Hashes of every ``n`` consecutive words, of all words where there are fewer; the smallest 256 of them.

    The smallest hashes of a set are a uniform sample of it (Broder 1997), so long texts cost no more than short ones.
    """
    if len(words) < n:
        return frozenset((crc32(" ".join(words).encode()),)) if words else frozenset()
    hashes = {crc32(" ".join(words[i : i + n]).encode()) for i in range(len(words) - n + 1)}
    return frozenset(hashes if len(hashes) <= SKETCH else nsmallest(SKETCH, hashes))


class Reader:
    """Renders, clips and groups records.

    Parameters
    ----------
    part : one of ``PARTS``
    group_by : field whose value is the group; None for the masked prompt
    named : fields that every record must have and that traces and features keep
    """

    def __init__(
        self, template: Template, part: str, window: Window, group_by: str | None, named: tuple[str, ...]
    ) -> None:
        self._template = template
        self._part = part
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
            text=shown_text(rendered, self._part, self._window),
            length=len(rendered.text),
            group=template if self._group_by is None else fields[self._group_by],
            template=template,
            family=shingles(words, _FAMILY_SHINGLE),
            fields=fields,
        )

    def features(self, row: int, record: Mapping[str, Any]) -> Features:
        """A record as features, of the whole trace even where the window clips it."""
        text = self._template.render(row, record).text
        return Features(
            length=len(text),
            digits=sum(map(text.count, "0123456789")),
            symbols=len(_NO_SYMBOL.sub("", text)),
            fields=self.fields(row, record),
        )

    def fields(self, row: int, record: Mapping[str, Any]) -> dict[str, Any]:
        """The named fields of a record.

        Raises
        ------
        TracesError : a field that the record lacks
        """
        for name in self._named:
            if name not in record:
                raise TracesError(
                    f"record {row} of the traces has no field {name!r}: it has {', '.join(map(str, record))}"
                )
        return {name: record[name] for name in self._named}
