"""Cost of tokens: the price table, a small file that may be edited, and a hard limit on spending."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any

from skillaxes.errors import UsageError

if TYPE_CHECKING:
    from skillaxes.labeling.options import LabelOptions

UNKNOWN_CONTEXT = 8192  # tokens of a prompt and its reply for a model that the table does not list
_SHIPPED = Path(__file__).with_name("prices.json")
_MILLION = 1e6


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens of one model.

    Attributes
    ----------
    input, cached_input, output : as the provider lists them, times the factor of the service tier
    """

    input: float
    cached_input: float
    output: float

    def cost(self, input_tokens: int, cached_input_tokens: int, output_tokens: int) -> float:
        """Dollars; ``cached_input_tokens`` are among the ``input_tokens``."""
        fresh = input_tokens - cached_input_tokens
        return (fresh * self.input + cached_input_tokens * self.cached_input + output_tokens * self.output) / _MILLION


@dataclass(frozen=True)
class PriceEntry:
    """A model's line of the price table.

    Attributes
    ----------
    price : None if the table does not list the model
    context : tokens that the model takes, None if the table does not say
    """

    price: Price | None
    context: int | None


def find_price(options: LabelOptions) -> PriceEntry:
    """The entry of the model that the options name, in the table that they name."""
    return look_up(options.model, options.service_tier, options.prices)


def look_up(model: str, service_tier: str | None = None, path: Path | None = None) -> PriceEntry:
    """The entry of a model; a dated version (``-2025-08-07``) has that of its undated name.

    Raises
    ------
    UsageError : a table that cannot be read
    """
    table = _read(path or _SHIPPED)
    models: Mapping[str, Any] = table["models"]
    name = model if model in models else re.sub(r"-\d{4}-?\d{2}-?\d{2}$", "", model)
    if name not in models:
        return PriceEntry(None, None)
    entry = models[name]
    factor = float(table.get("service_tiers", {}).get(service_tier, 1.0)) if service_tier else 1.0
    price = Price(entry["input"] * factor, entry.get("cached_input", entry["input"]) * factor, entry["output"] * factor)
    return PriceEntry(price, entry.get("context"))


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in table["models"].items():
            if not all(float(entry[field]) >= 0 for field in ("input", "output")):
                raise ValueError(f"a negative price of {name}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--prices {path}: no table of prices ({type(error).__name__}: {error}); "
            f'needs {{"models": {{"NAME": {{"input": 1.25, "output": 10.0}}}}}}, dollars per million tokens'
        ) from error
    return table


class LimitReached(Exception):
    """The worst-case cost of a request exceeds the rest of the limit. Nothing was sent."""


class SpendingLimit:
    """Spending limit: reserve the worst-case cost of a request before sending it, record the actual cost afterwards.

    Parameters
    ----------
    limit : most dollars; None for no limit
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = limit
        self._spent = 0.0
        self._reserved = 0.0
        self._in_flight = 0
        self._refused = False
        self._changed = Condition()

    @property
    def spent(self) -> float:
        """Recorded dollars; requests in flight are not counted yet."""
        return self._spent

    @property
    def refused(self) -> bool:
        """Whether a request was refused."""
        return self._refused

    def reserve(self, worst: float) -> None:
        """Reserve the worst-case cost of a request; waits while requests in flight hold the room for it.

        Raises
        ------
        LimitReached : it would not fit even with nothing in flight
        """
        with self._changed:
            while self._limit is not None and self._spent + self._reserved + worst > self._limit:
                if not self._in_flight:
                    self._refused = True
                    raise LimitReached(
                        f"a request may cost up to ${worst:.4f}, and ${self._spent:.4f} of ${self._limit:g} is spent"
                    )
                self._changed.wait()
            self._reserved += worst
            self._in_flight += 1

    def record(self, worst: float, actual: float) -> None:
        """Record the actual cost of a request that ``worst`` was reserved for."""
        with self._changed:
            self._in_flight -= 1
            self._reserved = self._reserved - worst if self._in_flight else 0.0
            self._spent += actual
            self._changed.notify_all()
