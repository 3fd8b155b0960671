"""Trace ids beside a matrix: given as a list, or in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from skillaxes.errors import SourceError

_FIELDS = ("trace_id", "id")


def load_ids(given: Sequence[str | None] | Path | str, field: str | None = None) -> list[str | None]:
    """The ids as texts, in row order.

    Parameters
    ----------
    given : the ids, or a file of one of the formats of ID_READERS; any other file is read line by line
    field : field or column of the ids; ``trace_id`` or ``id`` when None

    Raises
    ------
    SourceError : no such file, or no ids in it
    """
    if not isinstance(given, (str, Path)):
        return _texts(given)
    path = Path(given)
    *others, last = ID_READERS
    needed = f"needed: a {', '.join(others)} or {last}"
    if not path.is_file():
        raise SourceError(f"there is no file {path} with trace ids; {needed}")
    try:
        return _texts(ID_READERS.get(path.suffix, _from_lines)(path, field))
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is no text ({error}); {needed}") from error
    except ValueError as error:
        raise SourceError(f"{path} is damaged: {error}") from error


def _texts(names: Iterable[Any]) -> list[str | None]:
    return [None if name is None else str(name) for name in names]


def _from_records(path: Path, field: str | None) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            record = json.loads(line)
            names = (field,) if field else _FIELDS
            name = next((name for name in names if isinstance(record, dict) and name in record), None)
            if name is None:
                raise SourceError(f"{path} has no {' or '.join(names)} in line {number + 1}; name the field of the ids")
            yield record[name]


def _from_list(path: Path, _: str | None) -> list[Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, list):
        raise SourceError(f"{path} is no JSON list; needed: a list of trace ids in row order")
    return found


def _from_table(path: Path, column: str | None) -> list[str | None]:
    from skillaxes.ingest.parquet import read_ids

    ids = read_ids(path, column)
    if ids is None:
        raise SourceError(f"{path} has no column trace_id or id; name the column of the ids")
    return ids


def _from_lines(path: Path, _: str | None) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# One record a row, a list, a column, one id a line.
ID_READERS: dict[str, Callable[[Path, str | None], Iterable[Any]]] = {
    ".jsonl": _from_records,
    ".json": _from_list,
    ".parquet": _from_table,
    ".txt": _from_lines,
}
