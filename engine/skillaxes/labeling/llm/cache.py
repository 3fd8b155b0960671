"""The two append-only JSONL files of a server's replies: the cache, and a log of every request with its cost.

A line is handed to the operating system before its reply is used, so the process may be killed at any moment. A torn
last line is skipped by the next reader. Lines of the cache, which cost money, are also synced to the disk.
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
USAGE_LOG = "label_ledger.jsonl"


class JsonLines:
    """An append-only file of JSON objects, one a line; safe to use from several threads.

    Parameters
    ----------
    durable : sync each line to the disk, in case the machine dies
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
                    self._file.write(b"\n")  # a torn line of a killed process must not swallow this one
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
        """Close the file; a later ``append`` opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


class Cache:
    """Valid replies by the digest of their request."""

    def __init__(self, run_dir: Path) -> None:
        self._lines = JsonLines(run_dir / CACHE, durable=True)
        self._replies = {entry["key"]: entry["reply"] for entry in self._lines.entries() if "key" in entry}

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply under a key."""
        return self._replies.get(key)

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Keep a valid reply."""
        self._lines.append({"key": key, "reply": reply})
        self._replies[key] = reply

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def usage_log(run_dir: Path) -> JsonLines:
    """The log of every request of a run folder."""
    return JsonLines(run_dir / USAGE_LOG)


def digest(request: Mapping[str, Any]) -> str:
    """SHA-256 of everything in a request."""
    return sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
