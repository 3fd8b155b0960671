"""The metadata of a store under way, and what several writers of disjoint parts leave for each other.

A writer that closes its part leaves a record in ``parts/``; whoever finds all rows covered finishes the store. Two
writers that find it at once do the same work twice, with the same result: no lock is needed, nor would one be safe on
a cluster's file system.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillaxes.errors import StoreError
from skillaxes.store.attributes import COMPLETE, FORMAT_VERSION, OURS, TRACE_IDS, StoreAttributes, parse
from skillaxes.store.ids import FILE, IN_ATTRIBUTES, write_parquet
from skillaxes.store.layout import Layout

_METADATA = "zarr.json"
_PARTS = "parts"


@dataclass(frozen=True)
class Part:
    """What a writer has to know of a store that another process created."""

    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    attributes: StoreAttributes


def _replace(file: Path, text: str) -> None:
    aside = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)


def _codecs(layout: Layout, row_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    plain: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    if layout.shard_rows is None:
        return plain
    configuration = {
        "chunk_shape": [layout.chunk_rows, *row_shape],
        "codecs": plain,
        "index_codecs": plain,
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": configuration}]


def write_metadata(
    path: Path,
    shape: tuple[int, ...],
    dtype: str,
    layout: Layout,
    attributes: StoreAttributes,
    *,
    complete: bool,
    ids: Sequence[str | None] | None = None,
) -> None:
    """Write ``zarr.json`` (in one step), and the ids as attributes or as a file."""
    path.mkdir(parents=True, exist_ok=True)
    known = attributes.known()
    if ids is not None:
        if len(ids) > IN_ATTRIBUTES:
            write_parquet(path / FILE, ids)
            known[TRACE_IDS] = {"parquet": FILE}
        else:
            known[TRACE_IDS] = list(ids)
    known[OURS] = {"format_version": FORMAT_VERSION, COMPLETE: complete}
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [layout.file_rows, *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": _codecs(layout, shape[1:]),
        "attributes": known,
        "storage_transformers": [],
    }
    _replace(path / _METADATA, json.dumps(metadata, indent=2) + "\n")


def _metadata(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((path / _METADATA).read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        raise StoreError(f"there is no store at {path}; make it first: create_store(PATH, n_rows=...)") from None
    except ValueError as error:
        raise StoreError(f"{path / _METADATA} is damaged ({error}); create the store again") from error


def _complete(metadata: dict[str, Any]) -> bool:
    return bool(metadata.get("attributes", {}).get(OURS, {}).get(COMPLETE, True))


def _described(metadata: dict[str, Any]) -> Part:
    file_rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    first = metadata["codecs"][0]
    sharded = first["name"] == "sharding_indexed"
    layout = Layout(first["configuration"]["chunk_shape"][0], file_rows) if sharded else Layout(file_rows, None)
    return Part(tuple(metadata["shape"]), metadata["data_type"], layout, parse(metadata["attributes"]))


def read_unfinished(path: Path) -> Part:
    """The description of an unfinished store with known rows.

    Raises
    ------
    StoreError : no store, a finished one, or one whose number of rows was not declared
    """
    metadata = _metadata(path)
    if _complete(metadata):
        raise StoreError(f"{path} is finished; write to a new store: create_store(PATH, n_rows=...)")
    if not metadata["shape"][0]:
        raise StoreError(f"{path} was created without n_rows, so parts have no place; create_store(PATH, n_rows=...)")
    return _described(metadata)


def finish_part(path: Path, part: range, ids: Sequence[str | None] | None) -> None:
    """Record that a part is written; if every row is, finish the store.

    Raises
    ------
    StoreError : some parts came with ids and others without
    """
    folder = path / _PARTS
    folder.mkdir(exist_ok=True)
    record = {"start": part.start, "stop": part.stop, "ids": None if ids is None else list(ids)}
    _replace(folder / f"{part.start}.json", json.dumps(record))
    try:
        records = sorted((json.loads(file.read_text()) for file in folder.glob("*.json")), key=lambda r: r["start"])
        metadata = _metadata(path)
        unfinished = _described(metadata)
        reached = 0
        for entry in records:
            if entry["start"] > reached:
                return
            reached = max(reached, entry["stop"])
        if reached < unfinished.shape[0] or _complete(metadata):
            return
        everyones = _merge(path, records)
    except FileNotFoundError:
        return  # another writer finished the store meanwhile
    write_metadata(
        path,
        unfinished.shape,
        unfinished.dtype,
        unfinished.layout,
        unfinished.attributes,
        complete=True,
        ids=everyones,
    )
    shutil.rmtree(folder, ignore_errors=True)


def _merge(path: Path, records: list[dict[str, Any]]) -> list[str | None] | None:
    with_ids = [record for record in records if record["ids"] is not None]
    if not with_ids:
        return None
    if len(with_ids) < len(records):
        raise StoreError(
            f"some writers of {path} gave ids and others none; it stays unfinished: give ids for all or none"
        )
    merged: list[str | None] = []
    for record in records:
        merged.extend(record["ids"][len(merged) - record["start"] :])
    return merged
