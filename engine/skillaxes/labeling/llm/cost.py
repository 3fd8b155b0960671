"""What tokens cost: a small table in a file that may be edited."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

from skillaxes.errors import UsageError

UNKNOWN_CONTEXT = 8192  # tokens that a model of unknown size is trusted with
_SHIPPED = Path(__file__).with_name("prices.json")
_MILLION = 1e6


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens of one model.

    Attributes
    ----------
    input, cached_input, output : as the provider lists them, the service tier's factor included
    """

    input: float
    cached_input: float
    output: float

    def cost(self, input_tokens: int, cached_input_tokens: int, output_tokens: int) -> float:
        """Dollars; ``cached_input_tokens`` are among the ``input_tokens``."""
        fresh = input_tokens - cached_input_tokens
        return (fresh * self.input + cached_input_tokens * self.cached_input + output_tokens * self.output) / _MILLION


@dataclass(frozen=True)
class Entry:
    """What the table knows of a model: its price (None: not listed) and the tokens of input it takes."""

    price: Price | None
    context: int | None


def look_up(model: str, service_tier: str | None = None, path: Path | None = None) -> Entry:
    """The entry of a model.

    Raises
    ------
    UsageError : a table that cannot be read
    """
    table = _read(path or _SHIPPED)
    models: Mapping[str, Any] = table["models"]
    name = model if model in models else re.sub(r"-\d{4}-?\d{2}-?\d{2}$", "", model)
    if name not in models:
        return Entry(None, None)
    entry = models[name]
    factor = float(table.get("service_tiers", {}).get(service_tier, 1.0)) if service_tier else 1.0
    price = Price(entry["input"] * factor, entry.get("cached_input", entry["input"]) * factor, entry["output"] * factor)
    return Entry(price, entry.get("context"))


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
    """The worst case of a request does not fit into what is left. Nothing was sent."""


class Purse:
    """Counts what was spent and what may yet be.

    Parameters
    ----------
    limit : most dollars; None for no limit
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = limit
        self._spent = 0.0
        self._reserved = 0.0
        self._under_way = 0
        self._refused = False
        self._changed = Condition()

    @property
    def spent(self) -> float:
        """Dollars spent so far; what is under way does not count yet."""
        return self._spent

    @property
    def refused(self) -> bool:
        """Whether a request was not sent for lack of money."""
        return self._refused

    def reserve(self, worst: float) -> None:
        """Set the worst case of a request aside, once what is under way leaves room for it.

        Raises
        ------
        LimitReached : it would not fit even if nothing else were under way
        """
        with self._changed:
            while self._limit is not None and self._spent + self._reserved + worst > self._limit:
                if not self._under_way:
                    self._refused = True
                    raise LimitReached(
                        f"a request may cost up to ${worst:.4f}, and ${self._spent:.4f} of ${self._limit:g} is spent"
                    )
                self._changed.wait()
            self._reserved += worst
            self._under_way += 1

    def settle(self, worst: float, actual: float) -> None:
        """A reserved request came to ``actual`` dollars."""
        with self._changed:
            self._under_way -= 1
            self._reserved = self._reserved - worst if self._under_way else 0.0
            self._spent += actual
            self._changed.notify_all()
