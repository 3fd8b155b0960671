"""The store: a zarr array of activations, one row per trace. Opened, checked, described, written; nothing numerical."""

from __future__ import annotations

from skillaxes.store.attributes import StoreAttributes
from skillaxes.store.chunks import crc32c
from skillaxes.store.creating import create_store, open_writer
from skillaxes.store.opening import open_store
from skillaxes.store.plain import ChunkLocation, PlainChunks
from skillaxes.store.reading import Store
from skillaxes.store.writing import StoreWriter

__all__ = [
    "ChunkLocation",
    "PlainChunks",
    "Store",
    "StoreAttributes",
    "StoreWriter",
    "crc32c",
    "create_store",
    "open_store",
    "open_writer",
]
