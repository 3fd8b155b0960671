"""Two files of lines that only grow: replies that may be used again, and every call with what it took.

A line is handed to the system before anything else happens with a reply, so that the process may die at any moment; a
torn last line is what a death leaves, and it is passed over. Replies, which cost money, are on the disk by then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

CACHE = "label_cache.jsonl"
LEDGER = "label_ledger.jsonl"


class Journal:
    """Appends JSON objects to a file, one a line; safe to use from several threads.

    Parameters
    ----------
    durable : wait until the disk has each line, in case the machine dies
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self._durable = durable
        self._lock = Lock()
        self._file: BinaryIO | None = None

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line."""
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            if self._file is None:
                self._file = self.path.open("ab")
                if self._file.tell() and not _ends_with_newline(self.path):
                    self._file.write(b"\n")  # what a killed process left torn must not swallow this line
            self._file.write(line)
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())

    def entries(self) -> list[dict[str, Any]]:
        """All whole lines."""
        if not self.path.is_file():
            return []
        found = []
        for line in self.path.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                found.append(entry)
        return found

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


class Cache:
    """Valid replies by key."""

    def __init__(self, run_dir: Path) -> None:
        self._journal = Journal(run_dir / CACHE, durable=True)
        self._replies = {entry["key"]: entry["reply"] for entry in self._journal.entries() if "key" in entry}

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply recorded under a key."""
        return self._replies.get(key)

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Record a reply that was found valid."""
        self._journal.append({"key": key, "reply": reply})
        self._replies[key] = reply

    def close(self) -> None:
        self._journal.close()


def key_of(request: Mapping[str, Any]) -> str:
    """Names a request by everything in it."""
    return sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
