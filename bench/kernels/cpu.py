"""``python -m bench.kernels.cpu``: the products for CPUs side by side, on panels of a read.

Correctness first, then times. Panels pass through ``project`` and ``accumulate`` in turn, as in a read of the block
Krylov solver; they are more than any cache holds. GFLOP/s count 2 x rows x columns x directions a product, without
conversion and centring. A backend that fails against the float64 definition gets no time, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench import provenance
from bench.results import Book, quantiles
from skillaxes_kernels import PanelSpec, accumulate, api, prepare, project, reference

RESULTS = Path(__file__).resolve().parents[1] / "results" / "cpu.jsonl"
BACKENDS = {backend.name: backend for backend in api.BACKENDS if backend.automatic_on == "cpu"}
BITS = (24, 16, 8)
_SPREAD = 1 << 28  # bytes of the panels, unless they are tiny
_TOLERANCE = 1e-5  # of the largest dot or sum


def run(book: Book, rows: int, columns: int, directions: int, repeat: int, tiny: bool = False) -> list[dict[str, Any]]:
    """Measure every backend for CPUs; one line each, with the reason where this machine has it not."""
    generator = torch.Generator().manual_seed(0)
    count = 2 if tiny else max(2, _SPREAD // (rows * columns * 2))
    panels = [torch.randn(rows, columns, generator=generator).half().add_(1) for _ in range(count)]
    block = torch.randn(columns, directions, generator=generator) / columns**0.5
    shift = torch.ones(columns)
    lines = []
    for name, backend in BACKENDS.items():
        declined = backend.declines(PanelSpec.of(panels[0]))
        case = {"who": name, "rows": rows, "columns": columns, "directions": directions, "dtype": "float16"}
        if declined is not None:
            lines.append(book.append("products", case, {"declined": declined}))
            continue
        basis = backend.round_directions(block, torch.float16, None)
        error = _error(name, panels[0], basis, shift)
        if error > _TOLERANCE:
            lines.append(book.append("products", case, {"failed": f"error {error:.1e}"}))
            continue
        values = _times(name, panels, basis, shift, repeat)
        work = 2.0 * rows * columns * directions
        rates = {what: work / seconds["p50"] / 1e9 for what, seconds in values.items()}
        lines.append(book.append("products", case, {"error": error, "seconds": values, "gflops": rates}))
    return lines


def _error(name: str, panel: torch.Tensor, basis: torch.Tensor, shift: torch.Tensor) -> float:
    """The largest error of dots and sums over the largest dot and sum."""
    true = reference.project(panel, basis, shift)
    seen = project(panel, prepare(PanelSpec.of(panel), basis, shift, backend=name))
    sums = torch.zeros((basis.shape[1], basis.shape[0]), dtype=torch.float64).T
    reference.accumulate(sums, true, seen.dots)
    z = torch.zeros((basis.shape[1], basis.shape[0])).T
    accumulate(z, seen, seen.dots)
    dots = float((seen.dots - true.dots).abs().max() / true.dots.abs().max())
    return max(dots, float((z - sums).abs().max() / sums.abs().max()))


def _times(
    name: str, panels: Sequence[torch.Tensor], basis: torch.Tensor, shift: torch.Tensor, repeat: int
) -> dict[str, dict[str, float]]:
    rows, columns = panels[0].shape
    prepared = prepare(PanelSpec.of(panels[0]), basis, shift, backend=name)
    known = torch.zeros(rows, dtype=torch.bool)
    z = torch.zeros((basis.shape[1], columns)).T
    seconds: dict[str, list[float]] = {"project": [], **{f"accumulate {bits}": [] for bits in BITS}}
    for turn in range(repeat + 1):
        for panel in panels:
            started = time.perf_counter()
            seen = project(panel, prepared, bad=known)
            taken = {"project": time.perf_counter() - started}
            for bits in BITS:
                started = time.perf_counter()
                accumulate(z, seen, seen.dots, bits=bits)
                taken[f"accumulate {bits}"] = time.perf_counter() - started
            if turn:  # the first one warms up
                for what, value in taken.items():
                    seconds[what].append(value)
    return {what: quantiles(samples) for what, samples in seconds.items()}


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The measurements, as Markdown."""
    head = "| who | error | project GFLOP/s | " + " | ".join(f"accumulate, {bits} bits" for bits in BITS) + " |"
    out = [head, "|" + "---|" * (3 + len(BITS))]
    for line in lines:
        values = line["values"]
        if "seconds" not in values:
            out.append(f"| {line['case']['who']} | {values.get('failed') or values['declined']} |" + " |" * 4)
            continue
        rates = [f"{values['gflops'][what]:.0f}" for what in ("project", *(f"accumulate {bits}" for bits in BITS))]
        out.append(f"| {line['case']['who']} | {values['error']:.0e} | " + " | ".join(rates) + " |")
    return "\n".join(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m bench.kernels.cpu", description=__doc__)
    parser.add_argument("--rows", type=int, default=512, help="of a panel")
    parser.add_argument("--columns", type=int, default=32_768)
    parser.add_argument("--directions", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=5, help="passes over the panels")
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores")
    parser.add_argument("--tiny", action="store_true", help="for tests: two panels")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(words)
    threads = given.threads or provenance.cores()
    torch.set_num_threads(threads)
    command = provenance.command(["python", "-m", "bench.kernels.cpu", *words], {})
    book = Book(given.results, "kernels", command, threads)
    lines = run(book, given.rows, given.columns, given.directions, given.repeat, given.tiny)
    print(table(lines))
    return int(any("failed" in line["values"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
