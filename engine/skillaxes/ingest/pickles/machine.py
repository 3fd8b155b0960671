"""A pickle machine that runs nothing: it knows the opcodes that arrays need and calls only stand-ins of ours.

``pickle.Unpickler`` imports what a pickle names and calls what it says; an allow-list of names is not enough, since
some allowed functions load further pickles by themselves (``torch.storage._load_from_bytes``). This machine imports
nothing at all. A name that a pickle asks for is looked up in a table of stand-ins, plain functions that check their
arguments and describe an array; a name that is not in the table is refused. Bytes are handed on as views of the file,
so that nothing large is copied and no length that a pickle merely claims is allocated.
"""

from __future__ import annotations

import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from skillaxes.errors import SourceError

_SHOWN = 120  # characters of a foreign name in a message
_EXTENTS = 33


class Refused(SourceError):
    """The pickle asks for something that no array needs."""


class Malformed(SourceError):
    """The bytes are no pickle, or a damaged one."""


class Name:
    """A name that a pickle asked for and that is in the table."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@runtime_checkable
class Buildable(Protocol):
    """A stand-in that takes a state."""

    def build(self, state: Any) -> None: ...


class Mapped(dict[Any, Any]):
    """Stands for an ordered dict; the state that torch hangs on one is not needed."""

    def build(self, state: Any) -> None:
        pass


StandIn = Callable[..., Any]
Table = Mapping[tuple[str, str], StandIn | None]
MARK = object()


def shown(value: object) -> str:
    """Something foreign on one line, shortened, without control characters; never the whole of what a pickle nests."""
    if isinstance(value, (list, tuple)) and len(value) < _EXTENTS and all(type(item) is int for item in value):
        text = f"({', '.join('huge' if abs(item) >= 1 << 63 else str(item) for item in value)})"
    else:
        text = str(value) if isinstance(value, (str, Name, Exception)) else f"a {type(value).__name__}"
    clean = "".join(letter if letter.isprintable() else "?" for letter in text[: _SHOWN + 1])
    return clean if len(clean) <= _SHOWN else clean[:_SHOWN] + "..."


class PickleMachine:
    """The state of reading one pickle out of ``data``; the opcodes change it (:mod:`skillaxes.ingest.pickles.opcodes`).

    Parameters
    ----------
    data : the bytes, as a view
    table : the names that are admitted; None for those that are never called
    persistent : what a persistent id stands for; refused when None
    position : the byte that is read next
    """

    def __init__(self, data: memoryview, table: Table, *, persistent: StandIn | None = None, position: int = 0) -> None:
        self._data = data
        self._table = table
        self.persistent = persistent
        self.position = position
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.protocol = 0

    # -- bytes ------------------------------------------------------------------------------------------------------

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._data) - self.position:
            raise Malformed(f"the pickle is cut off: {count} more bytes were announced at byte {self.position}")
        view = self._data[self.position : self.position + count]
        self.position += count
        return view

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> bytes:
        window = 256
        while True:
            piece = bytes(self._data[self.position : self.position + window])
            end = piece.find(b"\n")
            if end >= 0:
                self.position += end + 1
                return piece[:end]
            if len(piece) < window:
                raise Malformed("the pickle is cut off within a line")
            window *= 2

    # -- the stack --------------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a mark where a value was expected")
        return value

    def pop_to_mark(self) -> list[Any]:
        stack = self.stack
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is MARK:
                values = stack[place + 1 :]
                del stack[place:]
                return values
        raise ValueError("no mark on the stack")

    # -- names ------------------------------------------------------------------------------------------------------

    def look_up(self, module: Any, name: Any) -> Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        if (module, name) not in self._table:
            if self.protocol < 3:  # Python 2's names, as the unpickler of the standard library takes them
                module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            raise Refused(
                f"refused: the pickle asks for {shown(module)}.{shown(name)}, which no array needs; nothing of it was "
                f"run; save the array alone, e.g. numpy.save('matrix.npy', x)"
            )
        return Name(module, name)

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name):
            raise Refused("refused: the pickle calls something that is no function an array needs")
        stand_in = self._table[function.module, function.name]
        if stand_in is None:
            raise Refused(f"refused: the pickle calls {function}, which no array needs")
        if not isinstance(arguments, tuple):
            raise ValueError(f"arguments of {function} that are no tuple")
        return stand_in(*arguments)
