"""The containers of ``torch.save``, old and new format, read as views of the file.

Formats: torch/serialization.py, ``_legacy_save`` (pickles in a row, then the storages) and ``_save`` (a zip with a
``data.pkl`` and one uncompressed member a storage). torch's own loader does not serve: it maps no file of the old
format, holds every page of a mapped file that was read, and calls functions of torch that a file names.
"""

from __future__ import annotations

from typing import Any

from skillaxes.errors import SourceError
from skillaxes.ingest.pickles.placeholders import PlaceholderStorage, constructors
from skillaxes.ingest.pickles.unpickler import shown, unpickle
from skillaxes.ingest.zip_members import ZIP_MAGIC, members

_MAGIC = 0x1950A86A20F9469CFC6C  # of torch's old format
_PROTOCOL = 1001
_STORAGE_ID = 5  # entries of a storage's persistent id: kind, type, key, location, numel (then a view, unused)


class _Storages(dict[str, PlaceholderStorage]):
    """The storages that a pickle refers to, by key; the device that a tensor lived on (``cuda:0``) does not matter."""

    def from_id(self, persistent_id: Any) -> PlaceholderStorage:
        parts = persistent_id if isinstance(persistent_id, tuple) else ()
        kind = bytes(parts[0]) if parts and isinstance(parts[0], memoryview) else parts[:1] and parts[0]
        if kind not in ("storage", b"storage") or len(parts) < _STORAGE_ID:
            raise SourceError(f"refused: the pickle refers to {shown(parts[:1])} outside of it, which no tensor needs")
        if len(parts) > _STORAGE_ID and parts[_STORAGE_ID] is not None:
            raise SourceError("the tensor is a view of a storage in torch's oldest format; save it with a newer torch")
        key = _key(parts[2])
        if key not in self:
            self[key] = PlaceholderStorage.of(parts[1], parts[4])
        return self[key]


def _key(key: Any) -> str:
    if isinstance(key, memoryview):
        return str(key, "ascii", "replace")
    if not isinstance(key, str):
        raise SourceError("a storage whose key is no text")
    return key


def load(data: memoryview) -> Any:
    """The object in a file of ``pickle.dump`` or ``torch.save``, with placeholders for its arrays.

    Raises
    ------
    SourceError : it asks for more than arrays need, or is damaged
    """
    if bytes(data[:4]) == ZIP_MAGIC:
        return _zipped(data)
    found, position = unpickle(data, _CONSTRUCTORS)
    return _legacy(data, position) if type(found) is int and found == _MAGIC else found


def _legacy(data: memoryview, position: int) -> Any:
    """The object in a file of torch's old format; its magic number ends at ``position``."""
    version, position = unpickle(data, {}, position=position)
    system, position = unpickle(data, {}, position=position)
    if version != _PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise SourceError("the file is of an old or big-endian torch; save the tensor again with a newer one")
    storages = _Storages()
    found, position = unpickle(data, _CONSTRUCTORS, persistent=storages.from_id, position=position)
    keys, position = unpickle(data, {}, position=position)
    if not isinstance(keys, list):
        raise SourceError("the file has no list of storages")
    for key in map(_key, keys):
        storage = storages.get(key)
        if storage is None:
            raise SourceError("the file lists a storage that no tensor has")
        begin = position + 8
        numel = int.from_bytes(data[position:begin], "little", signed=True)
        if numel != storage.numel or begin + storage.nbytes > len(data):
            raise SourceError("the file is cut off within a tensor, or its lengths disagree")
        storage.data = data[begin : begin + storage.nbytes]
        position = begin + storage.nbytes
    return found


def _zipped(data: memoryview) -> Any:
    """The object in a file of torch's new format."""
    entries = members(data)
    body = next((name for name in entries if name.rpartition("/")[2] == "data.pkl"), None)
    if body is None:
        raise SourceError("the zip holds no data.pkl: neither a file of torch.save nor an .npz")
    folder = body.rpartition("/")[0]
    if any(name.startswith(f"{folder}/code/") for name in entries):
        raise SourceError("refused: the file is a TorchScript program, not a tensor; save the tensor with torch.save")
    order = entries.get(f"{folder}/byteorder")
    if order is not None and bytes(order.stored()) != b"little":
        raise SourceError("the file was written on a big-endian machine; save the tensor again on a little-endian one")
    storages = _Storages()
    found, _ = unpickle(entries[body].stored(), _CONSTRUCTORS, persistent=storages.from_id)
    for key, storage in storages.items():
        member = entries.get(f"{folder}/data/{key}")
        if member is None:
            raise SourceError("a tensor's storage is not in the file")
        storage.data = member.stored()
    return found


def _load_from_bytes(raw: Any = None) -> PlaceholderStorage:
    """In place of ``torch.storage._load_from_bytes``, which loads a further pickle with everything admitted."""
    if not isinstance(raw, memoryview):
        raise SourceError("a storage without bytes")
    found = load(raw)
    if not isinstance(found, PlaceholderStorage):
        raise SourceError("refused: the pickle loads something that is no storage where a tensor's storage belongs")
    return found


_CONSTRUCTORS = constructors(_load_from_bytes)
