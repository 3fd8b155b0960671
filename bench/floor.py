"""The least time that a job's work takes on this machine, from measured rates, and the job as a multiple of it.

On a CPU the floor is a sum: copying the store's bytes out of the page cache, converting them and multiplying all need
the cores; only waiting for a disk would overlap. Where a stage of the manifest says which products it ran
(``products``: a list of ``{"kind", "dtype", "rows", "columns"}``) these are taken; otherwise a stage called ``read N``
is charged with both products of all its rows in float32 at the solver's block size. Every other stage is charged with
the bytes it read and nothing else, so the floor is rather too low than too high.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.rates import ACCUMULATE, PROJECT, Rate

_READ = re.compile(r"read \d+")


@dataclass(frozen=True)
class Speeds:
    """Units a second of everything, each the best of the forms and panel sizes that were tried.

    Attributes
    ----------
    read, memory : bytes a second
    convert : elements a second; None where the store is float32 and nothing is converted
    products : floating point operations a second by (kind, dtype)
    """

    read: float
    memory: float
    convert: float | None
    products: dict[tuple[str, str], float]

    @classmethod
    def of(cls, rates: Sequence[Rate], quantile: str = "median") -> Speeds:
        """From rates; ``quantile`` is ``median`` (what the machine sustains) or ``best`` (its fastest sample)."""
        pick = statistics.median if quantile == "median" else min

        # The same form may have been measured before and after the job: its samples belong together.
        pooled: dict[tuple[str, str], list[float]] = {}
        work: dict[tuple[str, str], float] = {}
        for rate in rates:
            pooled.setdefault((rate.kind, rate.form), []).extend(rate.seconds)
            work[rate.kind, rate.form] = rate.work
        speed = {key: work[key] / pick(seconds) for key, seconds in pooled.items()}

        def best(kind: str, start: str = "") -> float | None:
            return max(
                (value for (k, form), value in speed.items() if k == kind and form.startswith(start)), default=None
            )

        dtypes = {form.split(",")[0] for kind, form in speed if kind == PROJECT}
        products = {(kind, dtype): best(kind, dtype + ",") or 0.0 for kind in (PROJECT, ACCUMULATE) for dtype in dtypes}
        return cls(best("read") or 0.0, best("memory", "sum") or 0.0, best("convert"), products)

    def as_dict(self) -> dict[str, Any]:
        """GB/s, G elements/s and GFLOP/s, for a results line."""
        return {
            "read GB/s": self.read / 1e9,
            "memory GB/s": self.memory / 1e9,
            "convert Gelements/s": None if self.convert is None else self.convert / 1e9,
            **{f"{kind} {dtype} GFLOP/s": value / 1e9 for (kind, dtype), value in sorted(self.products.items())},
        }


@dataclass(frozen=True)
class StageFloor:
    """A stage of a job beside its floor.

    Attributes
    ----------
    name : of the stage
    seconds : what it took
    parts : seconds of the floor by kind of work
    stated : the manifest said which products ran
    """

    name: str
    seconds: float
    parts: dict[str, float]
    stated: bool

    @property
    def floor(self) -> float:
        """Seconds."""
        return sum(self.parts.values())

    def as_dict(self) -> dict[str, Any]:
        """As a results line holds it; ``multiple`` is None where the stage has no floor."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "floor": self.floor,
            "multiple": self.seconds / self.floor if self.floor > 0 else None,
            "parts": self.parts,
            "stated": self.stated,
        }


def stage_floors(manifest: dict[str, Any], speeds: Speeds) -> list[StageFloor]:
    """Every stage of a finished job with its floor. A stage that reads nothing and states no product has none."""
    store = manifest["store"]
    columns, width = store["n_features"], manifest["solver"].get("block_size") or 0
    floors = []
    for stage in manifest["stages"]:
        read = stage.get("bytes") or 0
        stated = "products" in stage
        products = stage.get("products", [])
        if not stated and _READ.fullmatch(stage["name"]):
            rows = stage.get("rows") or round(stage["reads"] * store["n_rows"])
            both = (PROJECT, ACCUMULATE)
            products = [{"kind": kind, "dtype": "float32", "rows": rows, "columns": width} for kind in both]
        parts: dict[str, float] = {}
        if read:
            parts["read"] = read / speeds.read
        # Rows that come out of a cache tier are converted all the same, so rows count, not bytes.
        converted = max((product["rows"] for product in products if product["dtype"] != store["dtype"]), default=0)
        if converted and speeds.convert is not None:
            parts["convert"] = converted * columns / speeds.convert
        for product in products:
            work = 2.0 * product["rows"] * columns * product["columns"]
            key = product["kind"]
            speed = speeds.products.get((key, product["dtype"]))
            if not speed:
                raise ValueError(
                    f"stage {stage['name']!r} ran {key} in {product['dtype']}: no rate was measured for it"
                )
            parts[key] = parts.get(key, 0.0) + work / speed
        floors.append(StageFloor(stage["name"], stage.get("seconds") or 0.0, parts, stated))
    return floors


def totals(manifest: dict[str, Any], wall_seconds: float, floors: Sequence[StageFloor]) -> dict[str, Any]:
    """The whole job: its floor, and the engine's and the whole process's time as multiples of it."""
    floor = sum(stage.floor for stage in floors)
    parts: dict[str, float] = {}
    for stage in floors:
        for kind, seconds in stage.parts.items():
            parts[kind] = parts.get(kind, 0.0) + seconds
    return {
        "floor": floor,
        "parts": parts,
        "engine_seconds": manifest["seconds"],
        "engine_multiple": manifest["seconds"] / floor,
        "wall_seconds": wall_seconds,
        "wall_multiple": wall_seconds / floor,
        "without_floor_seconds": sum(stage.seconds for stage in floors if stage.floor == 0),
    }
