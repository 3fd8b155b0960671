"""Ingest: files of activations into stores, and directions out of files. A pickle is read without running any of it.

Importing this package loads no reader and no numpy; a name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillaxes.ingest.ingestion import IngestSummary, ingest
    from skillaxes.ingest.readers import open_source

_HOMES = {"IngestSummary": "ingestion", "ingest": "ingestion", "open_source": "readers"}

__all__ = ["IngestSummary", "ingest", "open_source"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
