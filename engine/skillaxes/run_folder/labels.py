"""``labels.jsonl``: one JSON record a line, one line for each direction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skillaxes.errors import RunFolderError
from skillaxes.run_folder.schema import LABELS

# A record's ``status``.
LABELLED = "labelled"
UNINTERPRETABLE = "uninterpretable"  # an answer of the labeler
FAILED = "failed"

# A record's ``kind``; null when failed.
WORDS = "words"  # terms that separate the ends
NAME = "name"


def read_labels(run_dir: Path) -> list[dict[str, Any]]:
    """The records of a run folder, in the order of the file; empty without the file.

    Every record has ``direction`` (int) and ``configuration`` (str). Every other field may be missing.

    Raises
    ------
    RunFolderError : a line that is no record of a label
    """
    path = Path(run_dir) / LABELS
    if not path.is_file():
        return []
    # Lines end at line feeds only: a text may hold other line separators.
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    return [] if lines == [b""] else [_record(path, number, line) for number, line in enumerate(lines, 1)]


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:  # neither JSON nor UTF-8
        record = None
    if not (isinstance(record, dict) and isinstance(record.get("direction"), int) and "configuration" in record):
        raise RunFolderError(f"{path}: line {number} is no label; type skillaxes label with --overwrite to label again")
    return record
