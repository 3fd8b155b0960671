"""The opcodes of pickle that arrays need, protocols 0 to 5 (Lib/pickletools.py of CPython says what each does)."""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from skillaxes.errors import SourceError
from skillaxes.ingest.pickles.machine import (
    MARK,
    Buildable,
    Malformed,
    Name,
    PickleMachine,
    Refused,
    StandIn,
    Table,
    shown,
)

_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))
_STEPS: dict[int, Callable[[PickleMachine], None]] = {}


def unpickle(
    data: memoryview, table: Table, *, persistent: StandIn | None = None, position: int = 0
) -> tuple[Any, int]:
    """The object that a pickle describes, and the byte behind it; see :class:`PickleMachine` for the parameters.

    Raises
    ------
    Refused : it asks for more than an array needs
    Malformed : it is damaged
    """
    machine = PickleMachine(data, table, persistent=persistent, position=position)
    try:
        while True:
            opcode = machine.take(1)[0]
            if opcode == pickle.STOP[0]:
                return machine.pop(), machine.position
            step = _STEPS.get(opcode)
            if step is None:
                raise Refused(f"refused: the pickle uses opcode {bytes([opcode])!r}, which no array needs")
            step(machine)
    except SourceError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, struct.error, OverflowError, RecursionError) as error:
        raise Malformed(f"the pickle is damaged at byte {machine.position}: {shown(error)}") from error


def _step(*opcodes: bytes) -> Callable[[Callable[[PickleMachine], None]], Callable[[PickleMachine], None]]:
    def register(function: Callable[[PickleMachine], None]) -> Callable[[PickleMachine], None]:
        for opcode in opcodes:
            _STEPS[opcode[0]] = function
        return function

    return register


def _constant(opcode: bytes, make: Callable[[], Any]) -> None:
    _step(opcode)(lambda machine: machine.push(make()))


def _binary(opcode: bytes, layout: str) -> None:
    _step(opcode)(lambda machine: machine.push(machine.number(layout)))


def _sized(opcode: bytes, layout: str, make: Callable[[memoryview], Any]) -> None:
    _step(opcode)(lambda machine: machine.push(make(machine.take(machine.number(layout)))))


def _text(view: memoryview) -> str:
    return str(view, "utf-8", "surrogatepass")


def _long(view: memoryview) -> int:
    return int.from_bytes(view, "little", signed=True)


_constant(pickle.NONE, lambda: None)
_constant(pickle.NEWTRUE, lambda: True)
_constant(pickle.NEWFALSE, lambda: False)
_constant(pickle.EMPTY_TUPLE, tuple)
_constant(pickle.EMPTY_LIST, list)
_constant(pickle.EMPTY_DICT, dict)
_constant(pickle.MARK, lambda: MARK)
_binary(pickle.BININT, "<i")
_binary(pickle.BININT1, "<B")
_binary(pickle.BININT2, "<H")
_binary(pickle.BINFLOAT, ">d")
_sized(pickle.LONG1, "<B", _long)
_sized(pickle.LONG4, "<i", _long)
_sized(pickle.BINUNICODE, "<I", _text)
_sized(pickle.SHORT_BINUNICODE, "<B", _text)
_sized(pickle.BINUNICODE8, "<Q", _text)
# Bytes, also the strings of Python 2, stay views of the file.
_sized(pickle.BINBYTES, "<I", lambda view: view)
_sized(pickle.SHORT_BINBYTES, "<B", lambda view: view)
_sized(pickle.BINBYTES8, "<Q", lambda view: view)
_sized(pickle.BYTEARRAY8, "<Q", lambda view: view)
_sized(pickle.BINSTRING, "<i", lambda view: view)
_sized(pickle.SHORT_BINSTRING, "<B", lambda view: view)


@_step(pickle.PROTO)
def _proto(machine: PickleMachine) -> None:
    machine.protocol = machine.number("<B")
    if machine.protocol > pickle.HIGHEST_PROTOCOL:
        raise Malformed(f"the pickle says protocol {machine.protocol}; known: 0 to {pickle.HIGHEST_PROTOCOL}")


@_step(pickle.FRAME)
def _frame(machine: PickleMachine) -> None:
    machine.number("<Q")  # frames only tell a reader how much to fetch


@_step(pickle.INT, pickle.LONG)
def _int(machine: PickleMachine) -> None:
    line = machine.line().rstrip(b"L")
    machine.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


@_step(pickle.FLOAT)
def _float(machine: PickleMachine) -> None:
    machine.push(float(machine.line()))


@_step(pickle.STRING)
def _string(machine: PickleMachine) -> None:
    line = machine.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise ValueError("a string without quotes")
    machine.push(memoryview(codecs.escape_decode(line[1:-1])[0]))


@_step(pickle.UNICODE)
def _unicode(machine: PickleMachine) -> None:
    machine.push(str(machine.line(), "raw-unicode-escape"))


@_step(pickle.TUPLE)
def _tuple(machine: PickleMachine) -> None:
    machine.push(tuple(machine.pop_to_mark()))


def _small_tuple(opcode: bytes, size: int) -> None:
    def make(machine: PickleMachine) -> None:
        machine.push(tuple([machine.pop() for _ in range(size)][::-1]))

    _step(opcode)(make)


_small_tuple(pickle.TUPLE1, 1)
_small_tuple(pickle.TUPLE2, 2)
_small_tuple(pickle.TUPLE3, 3)
_step(pickle.LIST)(lambda machine: machine.push(machine.pop_to_mark()))


@_step(pickle.APPEND)
def _append(machine: PickleMachine) -> None:
    value = machine.pop()
    _target(machine, list).append(value)


@_step(pickle.APPENDS)
def _appends(machine: PickleMachine) -> None:
    values = machine.pop_to_mark()
    _target(machine, list).extend(values)


@_step(pickle.DICT)
def _dict(machine: PickleMachine) -> None:
    values = machine.pop_to_mark()
    machine.push({})
    _set_items(machine, values)


@_step(pickle.SETITEM)
def _setitem(machine: PickleMachine) -> None:
    value = machine.pop()
    _set_items(machine, [machine.pop(), value])


@_step(pickle.SETITEMS)
def _setitems(machine: PickleMachine) -> None:
    _set_items(machine, machine.pop_to_mark())


def _target(machine: PickleMachine, kind: type) -> Any:
    target = machine.stack[-1]
    if not isinstance(target, kind):
        raise Refused("refused: the pickle puts items into something that is no list or dict")
    return target


def _set_items(machine: PickleMachine, values: list[Any]) -> None:
    target = _target(machine, dict)
    for given, value in zip(values[::2], values[1::2], strict=True):
        key = bytes(given) if isinstance(given, memoryview) else given
        if not isinstance(key, _PLAIN_KEYS):  # hashing nested tuples takes time without bounds
            raise Refused("refused: the pickle has a dict whose keys are neither texts nor numbers")
        target[key] = value


@_step(pickle.POP)
def _discard(machine: PickleMachine) -> None:
    machine.stack.pop()


@_step(pickle.POP_MARK)
def _discard_to_mark(machine: PickleMachine) -> None:
    machine.pop_to_mark()


@_step(pickle.DUP)
def _dup(machine: PickleMachine) -> None:
    machine.push(machine.stack[-1])


@_step(pickle.MEMOIZE)
def _memoize(machine: PickleMachine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _memo(put: bytes, get: bytes, number: Callable[[PickleMachine], int]) -> None:
    def remember(machine: PickleMachine) -> None:
        machine.memo[number(machine)] = machine.stack[-1]

    _step(put)(remember)
    _step(get)(lambda machine: machine.push(machine.memo[number(machine)]))


_memo(pickle.PUT, pickle.GET, lambda machine: int(machine.line()))
_memo(pickle.BINPUT, pickle.BINGET, lambda machine: int(machine.number("<B")))
_memo(pickle.LONG_BINPUT, pickle.LONG_BINGET, lambda machine: int(machine.number("<I")))


def _named(machine: PickleMachine) -> Name:
    return machine.look_up(machine.line().decode("utf-8"), machine.line().decode("utf-8"))


@_step(pickle.GLOBAL)
def _global(machine: PickleMachine) -> None:
    machine.push(_named(machine))


@_step(pickle.STACK_GLOBAL)
def _stack_global(machine: PickleMachine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.look_up(module, name))


@_step(pickle.INST)
def _inst(machine: PickleMachine) -> None:
    _no_object(_named(machine))


@_step(pickle.OBJ)
def _obj(machine: PickleMachine) -> None:
    _no_object(machine.pop_to_mark()[0])


@_step(pickle.NEWOBJ, pickle.NEWOBJ_EX)
def _newobj(machine: PickleMachine) -> None:
    _no_object(next((value for value in reversed(machine.stack) if isinstance(value, Name)), None))


def _no_object(kind: Any) -> NoReturn:
    raise Refused(f"refused: the pickle makes an object of {shown(kind)} as no array is made")


@_step(pickle.REDUCE)
def _reduce(machine: PickleMachine) -> None:
    arguments = machine.pop()
    machine.push(machine.call(machine.pop(), arguments))


@_step(pickle.BUILD)
def _build(machine: PickleMachine) -> None:
    state = machine.pop()
    target = machine.stack[-1]
    if not isinstance(target, Buildable):
        raise Refused("refused: the pickle sets the state of something that is no array")
    target.build(state)


@_step(pickle.BINPERSID)
def _binpersid(machine: PickleMachine) -> None:
    if machine.persistent is None:
        raise Refused("refused: the pickle refers to objects outside of it (a persistent id), which no array needs")
    machine.push(machine.persistent(machine.pop()))


def _refuse(why: str, *opcodes: bytes) -> None:
    def refuse(machine: PickleMachine) -> None:
        raise Refused(f"refused: {why}; save the array alone, e.g. numpy.save('matrix.npy', x)")

    _step(*opcodes)(refuse)


_refuse("the pickle refers to objects outside of it (a persistent id)", pickle.PERSID)
_refuse("the pickle asks for an extension code of copyreg", pickle.EXT1, pickle.EXT2, pickle.EXT4)
_refuse("the values lie outside the pickle (out-of-band buffers)", pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)
_refuse("the pickle holds a set", pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)
