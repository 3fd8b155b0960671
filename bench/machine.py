"""This machine's rates, and the least time that a job's work takes at these rates.

The rates are those of reading files, of conversions, of both products of a read at the job's own shapes, and of memory.
They are measured in a process of their own (``python -m bench.work rates``), with the threads that the job gets. Each
is a list of samples; :class:`Speeds` picks the quantile.

On a CPU the floor of a stage is a sum: copying the store's bytes out of the page cache, converting them and multiplying
all need the cores; only waiting for a disk would overlap. A stage is charged with the bytes it read and with the
products that the manifest states for it (``products``: a list of ``{"kind", "dtype", "rows", "columns"}``), and with
nothing else, so the floor is rather too low than too high.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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
# Of the samples of a rate: the time that the machine sustains, and its fastest.
QUANTILES: dict[str, Callable[[Sequence[float]], float]] = {"median": statistics.median, "best": min}
_HOPELESS = 20  # a product that much slower than in float32 is measured once: float16 on CPUs without it


@dataclass(frozen=True)
class Rate:
    """The samples of one measurement.

    Attributes
    ----------
    kind : ``read``, ``convert``, ``project``, ``accumulate``, ``memory``
    form : dtype, panel rows and form of the product
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
        """The fields as JSON holds them."""
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
    """All rates of the store's files and of panels of ``columns`` columns times blocks of ``width`` columns.

    Parameters
    ----------
    panels : rows of the panels that are tried
    quick : small arrays, for tests
    """
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


@dataclass(frozen=True)
class Speeds:
    """Units a second of each kind of work: the best of the forms and panel sizes that were tried.

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
        """The speeds of measured rates; ``quantile`` is one of :data:`QUANTILES`."""
        pick = QUANTILES[quantile]
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
        """The speeds in GB/s, G elements/s and GFLOP/s, for a results line."""
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
    seconds : of the stage, measured
    parts : seconds of the floor by kind of work
    """

    name: str
    seconds: float
    parts: dict[str, float]

    @property
    def floor(self) -> float:
        """Seconds of all parts."""
        return sum(self.parts.values())

    def as_dict(self) -> dict[str, Any]:
        """The stage as a results line holds it; ``multiple`` is None where the floor is 0."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "floor": self.floor,
            "multiple": self.seconds / self.floor if self.floor > 0 else None,
            "parts": self.parts,
        }


def stage_floors(manifest: Mapping[str, Any], speeds: Speeds) -> list[StageFloor]:
    """The floor of every stage of a finished job; 0 where a stage reads nothing and states no product.

    Raises
    ------
    ValueError : no rate was measured for a product
    """
    store = manifest["store"]
    columns = store["n_features"]
    floors = []
    for stage in manifest["stages"]:
        products = stage.get("products", ())
        parts: dict[str, float] = {}
        if stage["bytes"]:
            parts["read"] = stage["bytes"] / speeds.read
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
        floors.append(StageFloor(stage["name"], stage["seconds"], parts))
    return floors


def totals(manifest: Mapping[str, Any], wall_seconds: float, floors: Sequence[StageFloor]) -> dict[str, Any]:
    """The floor of the whole job, and the times of the engine and of the whole process as multiples of it."""
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
