"""``scaling``: one job on more rows and on more columns, within one memory budget.

The cost should grow with the data and with nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench import launch
from bench.results import quantiles
from bench.suites.workspace import Options, Ran, Workspace, remove, summary_of
from bench.synthetic import Recipe

FACTORS = (1, 2, 4, 8)
AXES = ("rows", "columns")


def run(
    options: Options,
    recipe: Recipe,
    memory: str | None = None,
    factors: Sequence[int] = FACTORS,
    axes: Sequence[str] = AXES,
) -> list[dict[str, Any]]:
    """Measure the job on multiples of a matrix; one line a size and one of ratios an axis.

    The runs of an axis take turns, so that a machine that slows down does so for all sizes alike.

    Parameters
    ----------
    recipe : the matrix at factor 1
    memory : ``--memory`` of every run
    axes : the extents that are multiplied: ``rows``, ``columns``
    """
    unknown = sorted(set(axes) - set(AXES))
    if unknown:
        raise ValueError(f"axis {unknown[0]!r}: is not one of {', '.join(AXES)}")
    lines = []
    with Workspace(options) as work:
        book = work.book("scaling")
        for axis in axes:
            recipes = {factor: replace(recipe, **{axis: getattr(recipe, axis) * factor}) for factor in factors}
            stores = {factor: work.store(case) for factor, case in recipes.items()}
            runs: dict[int, list[Ran]] = {factor: [] for factor in factors}
            for _ in range(options.repeat or 3):
                for factor in factors:
                    ran = work.discover(stores[factor], memory=memory)
                    shutil.rmtree(ran.folder, ignore_errors=True)
                    if ran.measured.status != launch.DONE:
                        raise RuntimeError(f"{axis} x {factor}: {ran.measured.status}: {ran.measured.message.strip()}")
                    runs[factor].append(ran)
                    options.say(f"{axis} x {factor}: {ran.measured.wall_seconds:.2f} s")
            shared = {"axis": axis, "memory": memory, "components": options.components, "top": options.top}
            measured = {}
            for factor in factors:
                case = {**recipes[factor].as_dict(), "bytes": recipes[factor].nbytes, "factor": factor, **shared}
                measured[factor] = _values(runs[factor], recipes[factor].nbytes)
                lines.append(book.append("job", case, measured[factor]))
            case = {**recipe.as_dict(), "factors": list(factors), **shared}
            lines.append(book.append("ratios", case, _ratios(measured, factors)))
            if not options.keep:
                remove(list(stores.values()))
    return lines


def _values(runs: Sequence[Ran], nbytes: int) -> dict[str, Any]:
    walls = quantiles([ran.measured.wall_seconds for ran in runs])
    inside = quantiles([ran.manifest["seconds"] for ran in runs])
    return {
        "wall_seconds": walls,
        "engine_seconds_all": inside,
        "engine_seconds_per_gigabyte": inside["p50"] / (nbytes / 1e9),
        "wall_seconds_per_gigabyte": walls["p50"] / (nbytes / 1e9),
        "peak_memory_bytes": max(ran.measured.peak_memory_bytes for ran in runs),
        "bytes_read": max(runs[-1].measured.bytes_read, runs[-1].manifest["bytes_read"]),
        **summary_of(runs[-1].manifest),
    }


def _ratios(measured: dict[int, dict[str, Any]], factors: Sequence[int]) -> dict[str, Any]:
    """Times and memory relative to the first factor; ``engine`` leaves the start of the process out."""
    base = measured[factors[0]]
    return {
        str(factor): {
            "wall": measured[factor]["wall_seconds"]["p50"] / base["wall_seconds"]["p50"],
            "engine": measured[factor]["engine_seconds_all"]["p50"] / base["engine_seconds_all"]["p50"],
            "peak_memory": measured[factor]["peak_memory_bytes"] / base["peak_memory_bytes"],
        }
        for factor in factors
    }
