"""Options as dataclass fields: each declares its default, check, flags and help once; commands are made from them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from skillaxes.errors import UsageError


@dataclass(frozen=True)
class Option:
    """Declaration of an option, for its check, its messages and the command line.

    Attributes
    ----------
    flags : further names on the command line, such as ``-k``
    at_least : smallest whole number
    choices : allowed values
    accepts, needs : a check, and the end of its message "--option value: needs ..."
    convert : converts a value given the name on the command line; None for the conversion of the default's type
    help, metavar, panel : help text, placeholder and group of the option on the command line
    shown_default : default in the help of the command line; None for the default itself
    """

    flags: tuple[str, ...] = ()
    at_least: int | None = None
    choices: tuple[str, ...] | None = None
    accepts: Callable[[Any], bool] | None = None
    needs: str = ""
    convert: Callable[[str, Any], Any] | None = None
    help: str = ""
    metavar: str | None = None
    panel: str = ""
    shown_default: str | None = None


def option(default: Any, *flags: str, between: tuple[float, float] | None = None, **about: Any) -> Any:
    """A dataclass field that is an option.

    Parameters
    ----------
    flags : see :class:`Option`
    between : the open interval of allowed numbers
    **about : further attributes of :class:`Option`
    """
    if between is not None:
        low, high = between
        about = {"accepts": lambda value: low < value < high, "needs": f"a number between {low} and {high}", **about}
    return field(default=default, metadata={"option": Option(flags=flags, **about)})


def option_of(one: Field[Any]) -> Option:
    """The declaration of a dataclass field that is an option."""
    return one.metadata["option"]


def flag(name: str) -> str:
    """The name of a field on the command line: ``--max-reads`` for ``max_reads``."""
    return f"--{name.replace('_', '-')}"


def converted(group: Any, name: str, value: Any) -> Any:
    """``value`` converted to the type of the field ``name`` of a class of options.

    Raises
    ------
    UsageError : a value that cannot be converted
    """
    one = group.__dataclass_fields__[name]
    convert = option_of(one).convert or _BY_TYPE.get(type(one.default))
    return value if convert is None or value is None else convert(flag(name), value)


def check(group: Any) -> None:
    """Check the options of a group against their declarations.

    Raises
    ------
    UsageError : the first option with a value that is not allowed
    """
    for one in fields(group):
        about, value = option_of(one), getattr(group, one.name)
        if value is None and one.default is None:
            continue
        if about.at_least is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < about.at_least
        ):
            raise UsageError(f"{flag(one.name)} {value}: needs a whole number of at least {about.at_least}")
        if about.choices is not None and value not in about.choices:
            raise UsageError(f"{flag(one.name)} {value}: is not one of {', '.join(about.choices)}")
        if about.accepts is not None and not about.accepts(value):
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UsageError(f"{flag(one.name)} {shown}: needs {about.needs}")


def whole(name: str, value: Any) -> int:
    """``value`` as an int; integers of numpy and torch are accepted."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} {value}: needs whole numbers") from None


def number(name: str, value: Any) -> float:
    """``value`` as a float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} {value}: needs a number") from None


def as_path(name: str, value: Any) -> Path:
    """``value`` as a path."""
    return Path(value)


def as_names(name: str, value: Any) -> tuple[str, ...]:
    """Names as a tuple, from a sequence or a single name."""
    return (value,) if isinstance(value, str) else tuple(value)


_BY_TYPE: dict[type, Callable[[str, Any], Any]] = {int: whole, float: number}
