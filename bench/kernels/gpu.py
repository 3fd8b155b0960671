"""``make bench-gpu``: the fused kernels on a card. Correctness first, then times, under ten minutes.

    python -m bench.kernels.gpu                          on a card; appends to bench/results/gpu.jsonl, prints a table
    python -m bench.kernels.gpu --tiny --device cpu      the same flow at tiny size, anywhere

A rate is the panel's bytes over the time, as in a read of the store. Its share is of the device's own
copy, measured first, which moves the same bytes once in and once out. A contestant that fails the check against the
float64 definition gets no time, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import provenance
from bench.kernels import contestants
from bench.results import Book, quantiles

Line = dict[str, Any]
RESULTS = Path(__file__).resolve().parents[1] / "results" / "gpu.jsonl"
SHAPES = ((1_024, 4_096), (65_536, 4_096), (1_024, 30_720), (8_192, 30_720), (65_536, 30_720))
TINY_SHAPES = ((48, 256), (130, 700))
# Every shape in the store's usual dtype; the others where a panel is neither tiny nor huge.
CASES = (*((shape, torch.float16) for shape in SHAPES), (SHAPES[3], torch.bfloat16), (SHAPES[3], torch.float32))
N_DIRECTIONS = 48
_FLUSH_BYTES = 256 * 2**20  # more than any card's L2


@dataclass
class Context:
    """One run: its device, its results, its time limit, and the copy rate that shares refer to."""

    device: torch.device
    book: Book
    deadline: float
    tiny: bool
    compiled: bool
    copy_rate: float = 0.0
    failures: int = 0

    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.deadline


def copies(context: Context) -> list[Line]:
    """Time the device's own copy; on a card also copies from the host, pinned and not."""
    size = (8 if context.tiny else 1024) * 2**20
    source = torch.ones(size, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    seconds = timed(lambda: target.copy_(source), context)
    context.copy_rate = 2 * size / quantiles(seconds)["p50"]
    lines = [timed_line(context, "copy", {"kind": "device", "bytes": size}, seconds, 2 * size)]
    if context.device.type == "cuda":
        for pinned in (True, False):
            host = torch.ones(size // 4, dtype=torch.uint8, pin_memory=pinned)
            place = target[: size // 4]
            copy = _host_copy(place, host)
            kind = "pinned host" if pinned else "pageable host"
            case = {"kind": kind, "bytes": size // 4}
            lines.append(timed_line(context, "copy", case, timed(copy, context), size // 4))
    return lines


def projections(context: Context) -> list[Line]:
    """Time the dots with 48 directions and the squared norms of centred rows."""
    return _race(context, "project", contestants.projectors, contestants.error_of_projector)


def second_products(context: Context) -> list[Line]:
    """Time ``z += y^T @ weights`` with 48 columns of weights."""
    return _race(context, "accumulate", contestants.accumulators, contestants.error_of_accumulator)


# The sections of a run, in this order.
SECTIONS: tuple[Callable[[Context], list[Line]], ...] = (copies, projections, second_products)


def _race(context: Context, name: str, make: Callable[..., Any], error_of: Callable[..., float]) -> list[Line]:
    cases = [(shape, torch.float16) for shape in TINY_SHAPES] if context.tiny else CASES
    lines = []
    for (b, d), dtype in cases:
        case = {"rows": b, "columns": d, "directions": N_DIRECTIONS, "dtype": str(dtype).removeprefix("torch.")}
        if context.late():
            lines.append(context.book.append(name, case, {"skipped": "out of time"}))
            continue
        try:
            inputs = contestants.make_inputs(b, d, N_DIRECTIONS, dtype, context.device)
            entrants = make(inputs, context.compiled)
        except torch.OutOfMemoryError as error:
            lines.append(context.book.append(name, case, {"skipped": str(error).splitlines()[0]}))
            continue
        for who, run in entrants.items():
            lines.append(_contest(context, name, {**case, "who": who}, inputs, run, error_of))
        del inputs, entrants
        _release(context)
    return lines


def _contest(
    context: Context,
    name: str,
    case: dict[str, Any],
    inputs: contestants.Inputs,
    run: Callable[[], Any],
    error_of: Callable[..., float],
) -> Line:
    try:
        error = error_of(inputs, case["who"], run())
        # A library product in half precision is a mark for speed; its inputs are rounded, so it is not judged.
        if case["who"] != contestants.LIBRARY and not error <= contestants.LARGEST_ERROR:
            context.failures += 1
            return context.book.append(name, case, {"error": error, "failed": f"above {contestants.LARGEST_ERROR}"})
        return timed_line(context, name, case, timed(run, context), inputs.panel_bytes, error=error)
    except torch.OutOfMemoryError as problem:
        return context.book.append(name, case, {"skipped": str(problem).splitlines()[0]})


def timed_line(
    context: Context, name: str, case: dict[str, Any], seconds: list[float], n_bytes: int, **more: float
) -> Line:
    """Keep a time: the samples, bytes a second, and their share of the device's own copy."""
    spread = quantiles(seconds)
    rate = n_bytes / spread["p50"]
    values = {"seconds": spread, "bytes_per_second": rate, "share_of_copy": rate / context.copy_rate, **more}
    return context.book.append(name, case, values)


def timed(
    run: Callable[[], Any], context: Context, *, least: int = 5, most: int = 50, enough: float = 1.0
) -> list[float]:
    """Seconds of single calls after two warm-ups; on a card by events, with the L2 cache flushed before each."""
    on_card = context.device.type == "cuda"
    flush = torch.empty(_FLUSH_BYTES if on_card else 0, dtype=torch.uint8, device=context.device)
    run(), run()
    samples: list[float] = []
    while len(samples) < least or (len(samples) < most and sum(samples) < enough):
        flush.zero_()
        if on_card:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            run()
            after.record()
            after.synchronize()
            samples.append(before.elapsed_time(after) / 1e3)
        else:
            start = time.perf_counter()
            run()
            samples.append(time.perf_counter() - start)
        if context.tiny and len(samples) >= least:
            break
    return samples


def table(lines: Sequence[Line]) -> str:
    """The measurements, as Markdown."""
    rows = [
        "| what | rows x columns | dtype | who | ms | GB/s | of the copy | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        case, values = line["case"], line["values"]
        shape = f"{case['rows']:,} x {case['columns']:,}" if "rows" in case else f"{case['bytes']:,} bytes"
        who = case.get("who", case.get("kind", ""))
        head = f"| {line['measurement']} | {shape} | {case.get('dtype', '')} | {who} "
        if "seconds" not in values:
            rows.append(head + f"| {values.get('skipped', values.get('failed'))} | | | {values.get('error', '')} |")
            continue
        error = f"{values['error']:.0e}" if "error" in values else ""
        rows.append(
            head + f"| {1e3 * values['seconds']['p50']:.3f} | {values['bytes_per_second'] / 1e9:.0f} "
            f"| {values['share_of_copy']:.0%} | {error} |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every section; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny panels: shows that it runs, not how fast")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--seconds", type=float, default=480, help="no new shape is begun after that many")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that lines are appended to")
    options = parser.parse_args(words)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: needs a driver and a CUDA build of torch; try --tiny --device cpu", file=sys.stderr)
        return 2
    typed = provenance.command(["python", "-m", "bench.kernels.gpu", *words])
    book = Book(options.results, "gpu", typed, torch.get_num_threads())
    deadline = time.monotonic() + options.seconds
    context = Context(device, book, deadline, options.tiny, not options.no_compile)
    lines = [line for section in SECTIONS for line in section(context)]
    print(table(lines))
    return 1 if context.failures else 0


def _host_copy(place: torch.Tensor, host: torch.Tensor) -> Callable[[], Any]:
    return lambda: place.copy_(host, non_blocking=True)


def _release(context: Context) -> None:
    if context.device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
