"""Ingest: files of activations into stores, and directions out of files. A pickle is read without running any of it.

Importing this package loads no reader and no numpy; a name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillaxes import lazy_names

if TYPE_CHECKING:
    from skillaxes.ingest.ingestion import IngestSummary, ingest
    from skillaxes.ingest.readers import open_source

__all__ = ["IngestSummary", "ingest", "open_source"]

__getattr__ = lazy_names(__name__, {"ingestion": "IngestSummary ingest", "readers": "open_source"})
