"""Attributes of a store: the layers that lie side by side, the model, the tokens. All are optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from skillaxes.errors import StoreError

COMPLETE = "complete"
OURS = "skillaxes"  # attribute with the state of the writer
TRACE_IDS = "trace_ids"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class StoreAttributes:
    """Attributes of a store; ``None`` is unknown. Nothing is guessed.

    layer_ids : the model's own layer numbers, in column order
    hidden : columns of one layer
    model, revision : the model and its commit or version
    hook : place in a layer where the activation was taken, e.g. ``"residual stream"``
    pooling : the way tokens became one row, e.g. ``"mean"``
    token_range : the tokens of the formatted trace that a row has seen: a text, or ``(first, stop)``, counted from 0,
        ``stop`` excluded; None as ``stop`` for an open end
    """

    layer_ids: tuple[int, ...] | None = None
    hidden: int | None = None
    model: str | None = None
    revision: str | None = None
    hook: str | None = None
    pooling: str | None = None
    token_range: str | tuple[int, int | None] | None = None

    def known(self) -> dict[str, Any]:
        """The attributes that are known, as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value is not None
        }


NAMES = tuple(field.name for field in fields(StoreAttributes))


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _layer_ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value or not all(map(_integer, value)):
        raise StoreError(f"layer_ids is {value!r}; needed: a list of the model's layer numbers, e.g. [3, 7, 11]")
    if len(set(value)) < len(value):
        twice = next(layer for layer in value if list(value).count(layer) > 1)
        raise StoreError(f"layer_ids names layer {twice} twice; needed: every layer once, in column order")
    return tuple(value)


def _token_range(value: object) -> str | tuple[int, int | None]:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and len(value) == 2 and _integer(value[0]):
        first, stop = value
        if first >= 0 and (stop is None or (_integer(stop) and stop > first)):
            return (first, stop)
    raise StoreError(
        f"token_range is {value!r}; needed: a text, or the first token and the one behind the last, e.g. [1, 160]"
    )


def parse(given: Mapping[str, Any]) -> StoreAttributes:
    """Read attributes from a mapping (a zarr array's ``attrs``, or options); other keys are ignored.

    Raises
    ------
    StoreError : an attribute of the wrong type
    """
    values = {name: given[name] for name in NAMES if given.get(name) is not None}
    if "layer_ids" in values:
        values["layer_ids"] = _layer_ids(values["layer_ids"])
    if "token_range" in values:
        values["token_range"] = _token_range(values["token_range"])
    if "hidden" in values and (not _integer(values["hidden"]) or values["hidden"] < 1):
        raise StoreError(f"hidden is {values['hidden']!r}; needed: the number of columns of one layer, e.g. 576")
    for name in ("model", "revision", "hook", "pooling"):
        if name in values and not isinstance(values[name], str):
            raise StoreError(f"{name} is {values[name]!r}; needed: a text")
    return StoreAttributes(**values)


def fit(attributes: StoreAttributes, row_shape: Sequence[int]) -> StoreAttributes:
    """Check attributes against the shape of a row, ``(D,)`` or ``(layers, hidden)``.

    Returns
    -------
    the attributes, with ``hidden`` filled in where it follows from the others

    Raises
    ------
    StoreError : layer_ids x hidden is not the width of a row
    """
    ids, hidden = attributes.layer_ids, attributes.hidden
    if len(row_shape) == 2:
        layers, width = row_shape
        if hidden not in (None, width):
            raise StoreError(f"hidden is {hidden}, but rows of shape ({layers}, {width}) have {width} columns a layer")
        if ids is not None and len(ids) != layers:
            raise StoreError(f"layer_ids names {len(ids)} layers, but rows of shape ({layers}, {width}) have {layers}")
        return replace(attributes, hidden=width)
    (columns,) = row_shape
    if hidden is not None and ids is not None and hidden * len(ids) != columns:
        raise StoreError(
            f"{len(ids)} layer_ids x hidden {hidden} = {hidden * len(ids)} columns, but a row has {columns}; "
            f"give layer_ids in column order and the hidden size of the model"
        )
    if hidden is None and ids is not None:
        if columns % len(ids):
            raise StoreError(f"{len(ids)} layer_ids do not divide the {columns} columns of a row; give all layers")
        return replace(attributes, hidden=columns // len(ids))
    if hidden is not None and columns % hidden:
        raise StoreError(f"hidden {hidden} does not divide the {columns} columns of a row")
    return attributes
