"""The common part of the peers' programs: arguments, clock, answer."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.launch import EXIT_NOT_INSTALLED

if TYPE_CHECKING:
    from bench.judge import Answer

CLOCK = "clock.json"
ANSWER = "answer.npz"


class Clock:
    """Marks of ``time.monotonic()``; the launcher's clock is the same."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, float]] = []

    def mark(self, name: str) -> None:
        """Note that the stage called ``name`` is done now."""
        self.marks.append((name, time.monotonic()))


def run(imports: tuple[str, ...], job: Callable[[argparse.Namespace, Clock], Answer]) -> None:
    """Import, do the job, write clock and answer; ends the process with exit code 77 where an import is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE, for this peer alone")
    options = parser.parse_args()
    clock = Clock()
    for module in imports:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] in ("bench", "skillaxes", "skillaxes_kernels"):
                raise  # ours are always installed
            print(f"{missing}: pip install 'skillaxes[bench]'", file=sys.stderr)
            sys.exit(EXIT_NOT_INSTALLED)
    with suppress(ModuleNotFoundError):
        # Libraries that read OMP_NUM_THREADS agree with this already; it is for machines where they do not.
        if "torch" in imports:
            importlib.import_module("torch").set_num_threads(options.threads)
    clock.mark("imports")
    answer = job(options, clock)
    clock.mark("done")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / CLOCK).write_text(json.dumps(clock.marks))
    answer.save(options.out / ANSWER)


def extra(options: argparse.Namespace) -> dict[str, str]:
    """The peer's own options."""
    return dict(text.split("=", 1) for text in options.option)


def stages(marks: list[list[Any]], started: float) -> dict[str, float]:
    """Seconds of each stage, from marks and the process's start."""
    seconds = {}
    for name, when in marks:
        seconds[name] = when - started
        started = when
    return seconds
