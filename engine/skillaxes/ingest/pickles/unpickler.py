"""An unpickler that imports nothing and calls only the constructors it is given.

``pickle.Unpickler`` imports the names in a pickle and calls them. An allow-list of names is not enough: some allowed
functions load further pickles themselves (``torch.storage._load_from_bytes``). Here a name is looked up in a table of
constructors, which check their arguments and describe an array; a name outside the table is refused, and so is every
opcode that arrays do not need. The opcodes that only build numbers, texts, tuples and lists are those of the standard
library's unpickler in Python.

Payloads stay views of the file: nothing large is copied, and no length is allocated that the file does not hold.
"""

from __future__ import annotations

import pickle
import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from skillaxes.errors import SourceError

Constructor = Callable[..., Any]
Constructors = Mapping[tuple[str, str], Constructor | None]
_Step = Callable[[Any], None]  # one opcode, as a method of the unpickler

_SHOWN = 120  # characters of a foreign name in a message
_EXTENTS = 33
_DAMAGE = (
    pickle.UnpicklingError, struct.error, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError,
)  # fmt: skip
_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))
_INSTEAD = "save the array alone, e.g. numpy.save('matrix.npy', x)"


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a pickle that is in the table of constructors; ``constructor`` is None if it must not be called."""

    module: str
    name: str
    constructor: Constructor | None

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@runtime_checkable
class Buildable(Protocol):
    """A constructed object that takes a state."""

    def build(self, state: Any) -> None: ...


def shown(value: object) -> str:
    """A foreign value on one line, shortened, without control characters, nested values by their type alone."""
    if isinstance(value, (list, tuple)) and len(value) < _EXTENTS and all(type(item) is int for item in value):
        text = f"({', '.join('huge' if abs(item) >= 1 << 63 else str(item) for item in value)})"
    else:
        text = str(value) if isinstance(value, (str, Name, Exception)) else f"a {type(value).__name__}"
    clean = "".join(letter if letter.isprintable() else "?" for letter in text[: _SHOWN + 1])
    return clean if len(clean) <= _SHOWN else clean[:_SHOWN] + "..."


class _Stream:
    """A file over a view. Reading beyond its end is an error, before anything is allocated."""

    def __init__(self, data: memoryview, position: int) -> None:
        self._data = data
        self.position = position

    def view(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._data) - self.position:
            raise SourceError(f"the pickle is cut off: {count} more bytes were announced at byte {self.position}")
        view = self._data[self.position : self.position + count]
        self.position += count
        return view

    def read(self, count: int) -> bytes:
        return bytes(self.view(count))

    def readline(self) -> bytes:
        window = 256
        while True:
            piece = bytes(self._data[self.position : self.position + window])
            end = piece.find(b"\n") + 1
            if end:
                self.position += end
                return piece[:end]
            if len(piece) < window:
                raise SourceError("the pickle is cut off within a line")
            window *= 2


def unpickle(
    data: memoryview, constructors: Constructors, *, persistent: Constructor | None = None, position: int = 0
) -> tuple[Any, int]:
    """The object that a pickle describes, and the position behind the pickle.

    Parameters
    ----------
    data : the bytes, as a view
    constructors : the admitted names; None for those that must not be called
    persistent : constructor of objects with a persistent id; such objects are refused when None
    position : of the pickle's first byte in ``data``

    Raises
    ------
    SourceError : the pickle asks for more than an array needs (the message begins with ``refused:``), or is damaged
    """
    stream = _Stream(data, position)
    try:
        return _ArrayUnpickler(stream, constructors, persistent).load(), stream.position
    except SourceError:
        raise
    except _DAMAGE as error:
        raise SourceError(f"the pickle is damaged at byte {stream.position}: {shown(error)}") from error


def _inherited(opcode: bytes) -> _Step:
    return pickle._Unpickler.dispatch[opcode[0]]


def _refuse(why: str) -> _Step:
    def refuse(_: _ArrayUnpickler) -> None:
        raise SourceError(f"refused: {why}")

    return refuse


def _payload(layout: str, make: Callable[[memoryview], Any] = lambda view: view) -> _Step:
    """The opcode of a length and as many bytes; the bytes stay a view."""

    def load(unpickler: _ArrayUnpickler) -> None:
        (length,) = struct.unpack(layout, unpickler.read(struct.calcsize(layout)))
        unpickler.append(make(unpickler.stream.view(length)))

    return load


def _text(view: memoryview) -> str:
    return str(view, "utf-8", "surrogatepass")


class _ArrayUnpickler(pickle._Unpickler):
    """The unpickler of the standard library, with a table of opcodes that leaves none of its dangerous ones."""

    dispatch: ClassVar[dict[int, _Step]]  # by opcode; below
    # Attributes of the base class that opcodes use.
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    proto: int
    read: Callable[[int], bytes]
    stack: list[Any]

    def __init__(self, stream: _Stream, constructors: Constructors, persistent: Constructor | None) -> None:
        super().__init__(stream, encoding="bytes")
        self.stream = stream
        self.constructors = constructors
        self.persistent = persistent

    def find_class(self, module: str, name: str) -> Name:
        if (module, name) not in self.constructors:
            if self.proto < 3:  # Python 2's names, as the base class translates them
                module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            raise SourceError(
                f"refused: the pickle asks for {shown(module)}.{shown(name)}, which no array needs; nothing of it was "
                f"run; {_INSTEAD}"
            )
        return Name(module, name, self.constructors[module, name])

    def persistent_load(self, pid: Any) -> Any:
        if self.persistent is None:
            raise SourceError(
                "refused: the pickle refers to objects outside of it (a persistent id), which no array needs"
            )
        return self.persistent(pid)

    def load_proto(self) -> None:
        self.proto = self.read(1)[0]
        if self.proto > pickle.HIGHEST_PROTOCOL:
            raise SourceError(f"the pickle says protocol {self.proto}; known: 0 to {pickle.HIGHEST_PROTOCOL}")

    def load_frame(self) -> None:
        self.read(8)  # a frame only says how much to fetch at once

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name):
            raise SourceError("refused: the pickle calls something that is no function an array needs")
        if function.constructor is None:
            raise SourceError(f"refused: the pickle calls {function}, which no array needs")
        if not isinstance(arguments, tuple):
            raise ValueError(f"arguments of {function} that are no tuple")
        self.append(function.constructor(*arguments))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Buildable):
            raise SourceError("refused: the pickle sets the state of something that is no array")
        target.build(state)

    def load_object(self) -> None:
        kind = next((value for value in reversed(self.stack) if isinstance(value, Name)), None)
        raise SourceError(f"refused: the pickle makes an object of {shown(kind)} as no array is made")

    def load_inst(self) -> None:
        _inherited(pickle.GLOBAL)(self)
        self.load_object()

    def load_string(self) -> None:
        _inherited(pickle.STRING)(self)
        self.stack[-1] = memoryview(self.stack[-1])  # as every other payload

    def load_append(self) -> None:
        value = self.stack.pop()
        self._target(list).append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        self._target(list).extend(values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def load_dict(self) -> None:
        values = self.pop_mark()
        self.append({})
        self._set_items(values)

    def _target(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise SourceError("refused: the pickle puts items into something that is no list or dict")
        return self.stack[-1]

    def _set_items(self, values: list[Any]) -> None:
        target = self._target(dict)
        for given, value in zip(values[::2], values[1::2], strict=True):
            key = bytes(given) if isinstance(given, memoryview) else given
            if not isinstance(key, _PLAIN_KEYS):  # hashing nested tuples takes time without bounds
                raise SourceError("refused: the pickle has a dict whose keys are neither texts nor numbers")
            target[key] = value


_INHERITED = (
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2,
    pickle.LONG, pickle.LONG1, pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT, pickle.UNICODE,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.LIST,
    pickle.EMPTY_DICT, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP, pickle.STOP,
    pickle.MEMOIZE, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.GET, pickle.BINGET, pickle.LONG_BINGET,
    pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID,
)  # fmt: skip
_OWN: dict[bytes, _Step] = {
    pickle.PROTO: _ArrayUnpickler.load_proto,
    pickle.FRAME: _ArrayUnpickler.load_frame,
    pickle.STRING: _ArrayUnpickler.load_string,
    pickle.BINUNICODE: _payload("<I", _text),
    pickle.SHORT_BINUNICODE: _payload("<B", _text),
    pickle.BINUNICODE8: _payload("<Q", _text),
    pickle.BINBYTES: _payload("<I"),
    pickle.SHORT_BINBYTES: _payload("<B"),
    pickle.BINBYTES8: _payload("<Q"),
    pickle.BYTEARRAY8: _payload("<Q"),
    pickle.BINSTRING: _payload("<i"),
    pickle.SHORT_BINSTRING: _payload("<B"),
    pickle.APPEND: _ArrayUnpickler.load_append,
    pickle.APPENDS: _ArrayUnpickler.load_appends,
    pickle.SETITEM: _ArrayUnpickler.load_setitem,
    pickle.SETITEMS: _ArrayUnpickler.load_setitems,
    pickle.DICT: _ArrayUnpickler.load_dict,
    pickle.REDUCE: _ArrayUnpickler.load_reduce,
    pickle.BUILD: _ArrayUnpickler.load_build,
    pickle.INST: _ArrayUnpickler.load_inst,
    pickle.OBJ: _ArrayUnpickler.load_object,
    pickle.NEWOBJ: _ArrayUnpickler.load_object,
    pickle.NEWOBJ_EX: _ArrayUnpickler.load_object,
}
_REFUSED = {
    "the pickle refers to objects outside of it (a persistent id)": (pickle.PERSID,),
    "the pickle asks for an extension code of copyreg": (pickle.EXT1, pickle.EXT2, pickle.EXT4),
    "the values lie outside the pickle (out-of-band buffers)": (pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    "the pickle holds a set": (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
}
# Every opcode that is not listed is refused, also those of protocols to come.
_ArrayUnpickler.dispatch = (
    {code: _refuse(f"the pickle uses opcode {bytes([code])!r}, which no array needs") for code in range(256)}
    | {opcode[0]: _inherited(opcode) for opcode in _INHERITED}
    | {opcode[0]: step for opcode, step in _OWN.items()}
    | {opcode[0]: _refuse(f"{why}; {_INSTEAD}") for why, opcodes in _REFUSED.items() for opcode in opcodes}
)
