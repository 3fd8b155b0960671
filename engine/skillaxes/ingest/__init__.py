"""Ingest: files of activations into stores. Pickles are read by a machine that runs nothing."""

from __future__ import annotations

from skillaxes.ingest.ingestion import IngestSummary, ingest
from skillaxes.ingest.readers import SUFFIXES, open_source

__all__ = ["SUFFIXES", "IngestSummary", "ingest", "open_source"]
