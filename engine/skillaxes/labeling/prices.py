"""What tokens cost: a small table in a file that may be edited."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
