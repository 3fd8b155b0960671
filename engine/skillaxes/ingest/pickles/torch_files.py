"""Files of ``pickle.dump`` and ``torch.save``, old and new format, as named arrays: views, nothing of it run.

Formats: torch/serialization.py, ``_legacy_save`` (pickles in a row, then the storages) and ``_save`` (a zip with a
``data.pkl`` and one uncompressed member a storage).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skillaxes.errors import SourceError
from skillaxes.ingest.pickles.machine import Malformed, Refused, shown
from skillaxes.ingest.pickles.opcodes import unpickle
from skillaxes.ingest.pickles.rebuild import StorageStandIn, Values, resolve, table
from skillaxes.ingest.zip_members import members

ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # of torch's old format
_PROTOCOL = 1001
_STORAGE_ID = 5  # entries of a storage's persistent id: kind, type, key, location, numel (then a view, unused)


def _storages() -> tuple[dict[str, StorageStandIn], Callable[[Any], StorageStandIn]]:
    """Storages by key, and what stands for a persistent id; where a tensor lived (``cuda:0``) does not matter."""
    found: dict[str, StorageStandIn] = {}

    def persistent(name: Any) -> StorageStandIn:
        parts = name if isinstance(name, tuple) else ()
        kind = bytes(parts[0]) if parts and isinstance(parts[0], memoryview) else parts[:1] and parts[0]
        if kind not in ("storage", b"storage") or len(parts) < _STORAGE_ID:
            raise Refused(f"refused: the pickle refers to {shown(parts[:1])} outside of it, which no tensor needs")
        if len(parts) > _STORAGE_ID and parts[_STORAGE_ID] is not None:
            raise SourceError("the tensor is a view of a storage in torch's oldest format; save it with a newer torch")
        key = _key(parts[2])
        if key not in found:
            found[key] = StorageStandIn.of(parts[1], parts[4])
        return found[key]

    return found, persistent


def _key(key: Any) -> str:
    if isinstance(key, memoryview):
        return str(key, "ascii", "replace")
    if not isinstance(key, str):
        raise Malformed("a storage whose key is no text")
    return key


def _legacy(data: memoryview, position: int) -> Any:
    """What torch's old format holds; its magic number ends at ``position``."""
    version, position = unpickle(data, {}, position=position)
    system, position = unpickle(data, {}, position=position)
    if version != _PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise SourceError("the file is of an old or big-endian torch; save the tensor again with a newer one")
    storages, persistent = _storages()
    found, position = unpickle(data, _TABLE, persistent=persistent, position=position)
    keys, position = unpickle(data, {}, position=position)
    if not isinstance(keys, list):
        raise Malformed("the file has no list of storages")
    for key in map(_key, keys):
        storage = storages.get(key)
        if storage is None:
            raise Malformed("the file lists a storage that no tensor has")
        begin = position + 8
        numel = int.from_bytes(data[position:begin], "little", signed=True)
        if numel != storage.numel or begin + storage.nbytes > len(data):
            raise Malformed("the file is cut off within a tensor, or its lengths disagree")
        storage.data = data[begin : begin + storage.nbytes]
        position = begin + storage.nbytes
    return found


def _zipped(data: memoryview) -> Any:
    """What torch's new format holds."""
    entries = members(data)
    body = next((name for name in entries if name.rpartition("/")[2] == "data.pkl"), None)
    if body is None:
        raise SourceError("the zip holds no data.pkl: neither a file of torch.save nor an .npz")
    folder = body.rpartition("/")[0]
    if any(name.startswith(f"{folder}/code/") for name in entries):
        raise Refused("refused: the file is a TorchScript program, not a tensor; save the tensor with torch.save")
    order = entries.get(f"{folder}/byteorder")
    if order is not None and bytes(order.stored()) != b"little":
        raise SourceError("the file was written on a big-endian machine; save the tensor again on a little-endian one")
    storages, persistent = _storages()
    found, _ = unpickle(entries[body].stored(), _TABLE, persistent=persistent)
    for key, storage in storages.items():
        member = entries.get(f"{folder}/data/{key}")
        if member is None:
            raise Malformed("a tensor's storage is not in the file")
        storage.data = member.stored()
    return found


def _described(data: memoryview) -> Any:
    if bytes(data[:4]) == ZIP:
        return _zipped(data)
    found, position = unpickle(data, _TABLE)
    return _legacy(data, position) if type(found) is int and found == _MAGIC else found


def _load_from_bytes(raw: Any = None) -> StorageStandIn:
    """Stands for ``torch.storage._load_from_bytes``, which loads a further pickle with everything admitted."""
    if not isinstance(raw, memoryview):
        raise Malformed("a storage without bytes")
    found = _described(raw)
    if not isinstance(found, StorageStandIn):
        raise Refused("refused: the pickle loads something that is no storage where a tensor's storage belongs")
    return found


_TABLE = table(_load_from_bytes)


def read(data: memoryview) -> dict[str, Values | list[Values]]:
    """The arrays in a file of ``pickle.dump`` or ``torch.save``, by name (``""``: the object itself).

    Raises
    ------
    SourceError : it asks for more than arrays need (:class:`Refused`), is damaged (:class:`Malformed`) or of no use
    """
    try:
        return resolve(_described(data))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        raise Malformed(f"the file is damaged: {shown(error)}") from error
