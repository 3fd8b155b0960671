"""``python -m bench SUITE``: measure, append to the results, print a table. Run from the root of a checkout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import provenance, results, table
from bench.suites import limits, peers, scaling, solvers
from bench.suites.workspace import Options
from bench.synthetic import DTYPES, SPECTRA, Recipe
from skillaxes.memory import parse_size

ALL, TABLE = "all", "table"
Run = Callable[[Options, Recipe, str | None, argparse.Namespace], list[dict[str, Any]]]


def _limits(suite: str) -> Run:
    return lambda shared, recipe, memory, options: limits.run(
        shared, recipe, memory, options.panels, exact=not options.no_exact, suite=suite
    )


# By name: --memory unless it is given, and the function.
SUITES: dict[str, tuple[str | None, Run]] = {
    "peers": (None, lambda shared, recipe, memory, options: peers.run(shared, recipe, options.peers, memory)),
    "limits": ("2GiB", _limits("limits")),
    "million": ("2GiB", _limits("million")),
    "scaling": (
        "1GiB",
        lambda shared, recipe, memory, options: scaling.run(shared, recipe, memory, options.factors, options.axes),
    ),
    "solvers": (
        None,
        lambda shared, recipe, memory, options: solvers.run(
            shared, recipe, options.spectra, options.solvers, options.reads
        ),
    ),
}
# The matrix of every suite by size; of scaling the one at factor 1.
SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "full": {
        "peers": (12_500, 32_768),
        "limits": (50_000, 30_720),
        "million": (1_000_000, 4_096),
        "scaling": (25_000, 8_192),
        "solvers": (8_000, 2_048),
    },
    "small": {
        "peers": (4_000, 8_192),
        "limits": (16_000, 8_192),
        "million": (100_000, 1_024),
        "scaling": (4_000, 4_096),
        "solvers": (2_000, 512),
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one suite or all of them, or print the table of the newest results; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    if options.suite == TABLE:
        print(table.render(results.load(options.results, run="last")), end="")
        return 0
    shared = Options(
        command=provenance.command(["python", "-m", "bench", *words], _hidden(options)),
        results=options.results,
        threads=options.threads,
        temp=options.temp,
        keep=options.keep,
        repeat=options.repeat,
        components=options.components,
        top=options.top,
        memory_limit=None if options.memory_limit is None else parse_size(options.memory_limit),
        time_limit=options.time_limit,
        quick=options.quick,
    )
    lines: list[dict[str, Any]] = []
    for suite in SUITES if options.suite == ALL else (options.suite,):
        lines += _run(suite, shared, options)
    print(table.render(lines), end="")
    return 0


def _run(suite: str, shared: Options, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows, columns = SIZES[options.size][suite]
    if options.suite != ALL:
        rows, columns = options.rows or rows, options.columns or columns
    recipe = Recipe(
        rows, columns, dtype=options.dtype, spectrum=options.spectrum, exponent=options.exponent, seed=options.seed
    )
    memory, run = SUITES[suite]
    memory = options.memory or memory
    return run(shared, recipe, None if memory == "auto" else memory, options)


def _hidden(options: argparse.Namespace) -> dict[str, str]:
    return {} if options.temp is None else {str(options.temp): "$TEMP"}


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suite", choices=(*SUITES, ALL, TABLE))
    parser.add_argument("--size", choices=tuple(SIZES), default="full", help="the matrices, unless given")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--columns", type=int)
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--spectrum", choices=SPECTRA, default="power")
    parser.add_argument("--exponent", type=float, default=1.25, help="of the power law")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--components", type=int, default=default.components)
    parser.add_argument("--top", type=int, default=default.top)
    parser.add_argument("--memory", help="--memory of our command, or auto")
    parser.add_argument("--threads", type=int, default=0, help="of every process; 0 for all cores")
    parser.add_argument("--repeat", type=int, help="measurements of every process, instead of its own number")
    parser.add_argument("--memory-limit", help="resident bytes at which a process is ended; else what is available")
    parser.add_argument("--time-limit", type=float, default=900, help="seconds after which a process is ended")
    parser.add_argument("--temp", type=Path, help="where stores are made; they are removed at the end")
    parser.add_argument("--keep", action="store_true", help="with --temp: leave stores there, and use what is there")
    parser.add_argument("--results", type=Path, default=results.DEFAULT)
    parser.add_argument("--peers", type=_words, default=peers.NAMES, help=",".join(peers.NAMES))
    parser.add_argument("--panels", type=_numbers, default=limits.PANELS, help="rows of the panels in limits")
    parser.add_argument("--no-exact", action="store_true", help="limits: do not judge the answer")
    parser.add_argument("--factors", type=_numbers, default=scaling.FACTORS)
    parser.add_argument("--axes", type=_words, default=scaling.AXES)
    parser.add_argument("--spectra", type=_words, default=solvers.SPECTRA)
    parser.add_argument("--solvers", type=_words, default=solvers.SOLVERS)
    parser.add_argument("--reads", type=_numbers, default=solvers.READS)
    parser.add_argument("--quick", action="store_true", help="limits: small arrays for the memory rates")
    return parser


if __name__ == "__main__":
    sys.exit(main())
