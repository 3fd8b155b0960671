"""How a record becomes text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from skillaxes.errors import TracesError, UsageError

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
