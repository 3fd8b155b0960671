"""The store, a zarr array of activations with one row per trace: opened, checked, described and written."""

from __future__ import annotations

from skillaxes.store.attributes import StoreAttributes
from skillaxes.store.chunks import ChunkLocation, PlainChunks, crc32c
from skillaxes.store.store import Store, open_store
from skillaxes.store.writer import StoreWriter, create_store, open_writer

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
