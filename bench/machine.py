"""What this machine can do, measured: reading files, converting, the products at a job's own shapes, memory.

Runs in a process of its own (``python -m bench.work rates``), with the threads that the job gets. Every figure is
a list of samples; whoever uses them picks the quantile.

The least time that a job's work takes on this machine, from measured rates, and the job as a multiple of it.

On a CPU the floor is a sum: copying the store's bytes out of the page cache, converting them and multiplying all need
the cores; only waiting for a disk would overlap. Where a stage of the manifest says which products it ran
(``products``: a list of ``{"kind", "dtype", "rows", "columns"}``) these are taken; otherwise a stage called ``read N``
is charged with both products of all its rows in float32 at the solver's block size. Every other stage is charged with
the bytes it read and nothing else, so the floor is rather too low than too high.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.panels import files_of

if TYPE_CHECKING:
    import torch

PROJECT = "project"
ACCUMULATE = "accumulate"

_LEAST_SAMPLES = 5
_LEAST_SECONDS = 0.5
_PIECE = 1 << 23
_HOPELESS = 20  # a product this much slower than float32 is not measured further: float16 on CPUs without it


@dataclass(frozen=True)
class Rate:
    """One thing measured.

    Attributes
    ----------
    kind : ``read``, ``convert``, ``project``, ``accumulate``, ``memory``
    form : how it was done: dtype, panel rows, form of the product
    unit : ``bytes``, ``elements`` or ``flops``
    work : units that one sample does
    seconds : of each sample
    """

    kind: str
    form: str
    unit: str
    work: float
    seconds: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**self.__dict__, "seconds": list(self.seconds)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Rate:
        """The inverse of :meth:`as_dict`."""
        return cls(**{**values, "seconds": tuple(values["seconds"])})


def _samples(
    job: Callable[[], object], least: int = _LEAST_SAMPLES, seconds: float = _LEAST_SECONDS
) -> tuple[float, ...]:
    job()  # warm-up: page faults, thread pools, code paths chosen at the first call
    taken: list[float] = []
    while len(taken) < least or (sum(taken) < seconds and len(taken) < 200):
        started = time.perf_counter()
        job()
        taken.append(time.perf_counter() - started)
    return tuple(taken)


def read_rate(store: Path, threads: int, samples: int = 3) -> list[Rate]:
    """Plain ``readinto`` of a store's files into reused buffers of 8 MiB, by one thread and by all of them."""
    # Files are cut into pieces, so that all threads have work, whatever the sizes of files.
    sizes = {file: file.stat().st_size for file in files_of(store)}
    pieces = [
        (file, start, min(_PIECE, size - start)) for file, size in sizes.items() for start in range(0, size, _PIECE)
    ]
    buffers = [memoryview(bytearray(_PIECE)) for _ in range(threads)]

    def work(buffer: memoryview, mine: Sequence[tuple[Path, int, int]]) -> None:
        for file, start, count in mine:
            with open(file, "rb", buffering=0) as handle:
                handle.seek(start)
                done = 0
                while done < count:
                    done += handle.readinto(buffer[done:count]) or count

    rates = []
    for workers in sorted({1, threads}):
        shares = [pieces[worker::workers] for worker in range(workers)]
        with ThreadPoolExecutor(workers) as pool:

            def job(pool: ThreadPoolExecutor = pool, shares: list[list[tuple[Path, int, int]]] = shares) -> None:
                list(pool.map(work, buffers, shares))

            taken = _samples(job, samples, 0)
        rates.append(Rate("read", f"{workers} threads", "bytes", sum(sizes.values()), taken))
    return rates


def memory_rates(elements: int, seconds: float = _LEAST_SECONDS) -> list[Rate]:
    """Reading memory (a sum), copying it, and a triad, over arrays larger than any cache."""
    import torch

    a, b, c = (torch.ones(elements) for _ in range(3))
    return [
        Rate("memory", "sum", "bytes", 4 * elements, _samples(a.sum, seconds=seconds)),
        Rate("memory", "copy", "bytes", 8 * elements, _samples(lambda: b.copy_(a), seconds=seconds)),
        Rate(
            "memory",
            "triad",
            "bytes",
            12 * elements,
            _samples(partial(torch.add, a, b, alpha=3.0, out=c), seconds=seconds),
        ),
    ]


def conversion_rates(dtype: str, columns: int, panels: Sequence[int], seconds: float = _LEAST_SECONDS) -> list[Rate]:
    """The store's dtype to float32: source panels from a ring of 64 MiB, one reused panel to write to."""
    import torch

    rates = []
    for rows in panels:
        source = torch.randn((max(rows, (1 << 25) // columns // rows * rows), columns)).to(getattr(torch, dtype))
        target = torch.empty((rows, columns))

        def job(source: torch.Tensor = source, target: torch.Tensor = target, rows: int = rows) -> None:
            for start in range(0, len(source), rows):
                target.copy_(source[start : start + rows])

        rates.append(
            Rate(
                "convert",
                f"{dtype} to float32, {rows} rows",
                "elements",
                source.numel(),
                _samples(job, seconds=seconds),
            )
        )
    return rates


def product_rates(
    columns: int, width: int, panels: Sequence[int], dtypes: Sequence[str], seconds: float = _LEAST_SECONDS
) -> list[Rate]:
    """The two products of a read, (b, d) @ (d, l) and its transposed partner, in several dtypes and forms."""
    import torch

    rates: list[Rate] = []
    in_float32: dict[tuple[str, int], float] = {}
    for dtype in dtypes:
        for rows in panels:
            for (product, form), job in _products(rows, columns, width, getattr(torch, dtype)).items():
                started = time.perf_counter()
                job()
                first = time.perf_counter() - started
                hopeless = first > _HOPELESS * in_float32.get((product, rows), first)
                taken = (first,) if hopeless else _samples(job, seconds=seconds)
                if dtype == "float32":
                    in_float32[product, rows] = max(taken)
                name = f"{dtype}, {rows} rows, {width} columns, {form}"
                rates.append(Rate(product, name, "flops", 2.0 * rows * columns * width, taken))
    return rates


def _products(rows: int, columns: int, width: int, kind: torch.dtype) -> dict[tuple[str, str], Callable[[], object]]:
    import torch

    panel = torch.randn((rows, columns)).to(kind)
    block = torch.randn((columns, width)).to(kind)
    weights = torch.randn((rows, width)).to(kind)
    tall, wide = torch.zeros((columns, width), dtype=kind), torch.zeros((width, columns), dtype=kind)
    dots = torch.empty((rows, width), dtype=kind)
    return {
        (PROJECT, "X @ W"): lambda: torch.mm(panel, block, out=dots),
        (ACCUMULATE, "Z += X' S"): lambda: tall.addmm_(panel.T, weights),
        (ACCUMULATE, "Z' += S' X"): lambda: wide.addmm_(weights.T, panel),
    }


def all_rates(
    store: Path, dtype: str, columns: int, width: int, panels: Sequence[int], threads: int, *, quick: bool = False
) -> list[Rate]:
    """Everything. ``quick`` is for tests: small arrays."""
    import torch

    torch.set_num_threads(threads)
    seconds = 0.01 if quick else _LEAST_SECONDS
    half = ["float16"] if dtype == "float16" else []
    rates = read_rate(store, threads)
    rates += memory_rates(1 << 20 if quick else 1 << 27, seconds)
    if dtype != "float32":
        rates += conversion_rates(dtype, columns, panels, seconds)
    rates += product_rates(columns, width, panels, ["float32", "bfloat16", *half], seconds)
    return rates


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
