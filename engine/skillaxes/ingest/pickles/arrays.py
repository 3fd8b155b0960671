"""The arrays in a file of ``pickle.dump`` or ``torch.save``, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skillaxes.errors import SourceError
from skillaxes.ingest.matrix import MappedFile, Matrix, Values, ViewMatrix
from skillaxes.ingest.pickles.placeholders import PlaceholderArray, PlaceholderTensor
from skillaxes.ingest.pickles.torch_files import load
from skillaxes.ingest.pickles.unpickler import shown

_DEEPEST = 16  # levels of dicts and lists around an array
_MOST_OBJECTS = 100_000  # looked at around the arrays; lists that hold themselves would never end
_ARRAYS = (PlaceholderArray, PlaceholderTensor)


def read_pickle(path: Path) -> dict[str, Matrix]:
    """The arrays in a file by name, as views of the mapped file."""
    mapped = MappedFile(path)
    return {name: ViewMatrix.of(values, name, mapped.release) for name, values in read(mapped.view).items()}


def read(data: memoryview) -> dict[str, Values | list[Values]]:
    """The arrays in the bytes of a file, by name: ``""`` for the object itself, keys of dicts joined by dots.

    A list of arrays stays one entry; anything that is neither array, dict nor list is left out.

    Raises
    ------
    SourceError : the pickle asks for more than arrays need (the message begins with ``refused:``), is damaged, or has
        an array that cannot be taken or too much around its arrays
    """
    try:
        return _named_arrays(load(data))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        raise SourceError(f"the file is damaged: {shown(error)}") from error


def _named_arrays(found: Any) -> dict[str, Values | list[Values]]:
    arrays: dict[str, Values | list[Values]] = {}
    waiting: list[tuple[str, Any, int]] = [("", found, 0)]
    looked_at = 0
    while waiting:
        name, value, depth = waiting.pop()
        looked_at += 1
        if isinstance(value, _ARRAYS):
            arrays[name] = _values(value)
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, _ARRAYS) for item in value):
            arrays[name] = [_values(item) for item in value]
        elif isinstance(value, (Mapping, list, tuple)):
            looked_at += len(value)
            if depth == _DEEPEST or looked_at > _MOST_OBJECTS:
                raise SourceError("the pickle holds too much around its arrays; save the array alone, e.g. numpy.save")
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting.extend((_joined(name, key), item, depth + 1) for key, item in pairs)
    return arrays


def _joined(name: str, key: Any) -> str:
    label = str(key, "utf-8", "replace") if isinstance(key, bytes) else str(key)
    return f"{name}.{label}" if name else label


def _values(placeholder: PlaceholderArray | PlaceholderTensor) -> Values:
    try:
        return placeholder.values()
    except (ValueError, MemoryError, OverflowError) as error:
        raise SourceError(f"an array that cannot be ({error})") from error
