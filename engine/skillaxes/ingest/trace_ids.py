"""Trace ids beside a matrix: given as a list, or in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from skillaxes.errors import SourceError
from skillaxes.ingest.parquet import id_column, read_ids

_FIELDS = ("trace_id", "id")


def load_ids(given: Sequence[str | None] | Path | str, field: str | None = None) -> list[str | None]:
    """The ids as texts, in row order.

    Parameters
    ----------
    given : the ids, or a file: ``.jsonl`` (one record a row), ``.json`` (a list), ``.parquet`` or ``.txt`` (one a line)
    field : field or column of the ids; ``trace_id`` or ``id`` when None

    Raises
    ------
    SourceError : no such file, or no ids in it
    """
    if not isinstance(given, (str, Path)):
        return [None if name is None else str(name) for name in given]
    path = Path(given)
    if not path.is_file():
        raise SourceError(f"there is no file {path} with trace ids; needed: a .jsonl, .json, .parquet or .txt")
    try:
        if path.suffix == ".parquet":
            column = id_column(path, field)
            if column is None:
                raise SourceError(f"{path} has no column trace_id or id; name the column of the ids")
            return read_ids(path, column)
        if path.suffix == ".jsonl":
            return list(_from_records(path, field))
        if path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, list):
                raise SourceError(f"{path} is no JSON list; needed: a list of trace ids in row order")
            return [None if name is None else str(name) for name in found]
        return list(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is no text ({error}); needed: a .jsonl, .json, .parquet or .txt") from error
    except ValueError as error:
        raise SourceError(f"{path} is damaged: {error}") from error


def _from_records(path: Path, field: str | None) -> Iterator[str | None]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            record = json.loads(line)
            names = (field,) if field else _FIELDS
            name = next((name for name in names if isinstance(record, dict) and name in record), None)
            if name is None:
                raise SourceError(f"{path} has no {' or '.join(names)} in line {number + 1}; name the field of the ids")
            yield None if record[name] is None else str(record[name])
