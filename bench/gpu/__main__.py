"""``make bench-gpu``: kernels, reads and whole jobs on a card, under ten minutes.

    python -m bench.gpu                              on a card; appends to bench/results/gpu.jsonl, prints a table
    python -m bench.gpu --only reads jobs            some of it
    python -m bench.gpu --tiny --device cpu          the same flow at tiny size, anywhere

Stores of 4 and 3 GB are made in --scratch and removed at the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench import provenance
from bench.gpu.jobs import jobs
from bench.gpu.reads import reads
from bench.gpu.stores import Run
from bench.kernels import gpu as kernels
from bench.results import Book


def _kernels(run: Run) -> list[kernels.Line]:
    return [line for section in kernels.SECTIONS for line in section(run)]


# By name: the function, and the share of the time after which it begins nothing new.
SECTIONS: dict[str, tuple[Callable[[Run], list[kernels.Line]], float]] = {
    "kernels": (_kernels, 0.45),
    "reads": (reads, 0.7),
    "jobs": (jobs, 0.9),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--seconds", type=float, default=540, help="for everything")
    parser.add_argument("--scratch", type=Path, help="where stores are made; the disk of the reads from disk")
    parser.add_argument("--results", type=Path, default=kernels.RESULTS, help="the file that lines are appended to")
    options = parser.parse_args(words)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: needs a driver and a CUDA build of torch; try --tiny --device cpu", file=sys.stderr)
        return 2
    hidden = {} if options.scratch is None else {str(options.scratch): "$SCRATCH"}
    typed = provenance.command(["python", "-m", "bench.gpu", *words], hidden)
    began, lines = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="bench-gpu-", dir=options.scratch) as folder:
        book = Book(options.results, "gpu", typed, torch.get_num_threads(), hidden)
        run = Run(device, book, 0.0, options.tiny, not options.no_compile, folder=Path(folder))
        if "kernels" not in options.only:
            lines += kernels.copies(run)  # the rate that shares refer to
        for name in options.only:
            section, share = SECTIONS[name]
            run.deadline = began + share * options.seconds
            lines += section(run)
    print(kernels.table(lines))
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
