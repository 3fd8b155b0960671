"""The heavy work of the benchmarks. Each piece runs in a process of its own, so that no suite holds memory or threads.

python -m bench.work store OUT --recipe JSON --threads 2
python -m bench.work rows OUT --source FILE.npy
python -m bench.work exact STORE --components 10 --top 10
python -m bench.work npy|pickle STORE --out FILE
python -m bench.work rates STORE --out FILE --columns 32768 --width 48 --panels 128,256 --dtype float16
python -m bench.work captured STORE --out FILE --answers A.npz B.npz --components 10 --top 10
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    """Do the piece of work that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench.work")
    parser.add_argument("piece", choices=tuple(_PIECES))
    parser.add_argument("path", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--columns", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--dtype")
    parser.add_argument("--panels")
    parser.add_argument("--answers", type=Path, nargs="*", default=[])
    parser.add_argument("--quick", action="store_true")
    _PIECES[(options := parser.parse_args()).piece](options)


def _store(options: argparse.Namespace) -> None:
    from bench.synthetic import Recipe, write_store

    write_store(Recipe(**json.loads(options.recipe)), options.path, options.threads)


def _rows(options: argparse.Namespace) -> None:
    """Write a store of the rows of a .npy file."""
    import numpy as np

    from skillaxes.store import create_store

    rows = np.load(options.source, mmap_mode="r")
    with create_store(options.path, n_rows=len(rows), n_features=rows.shape[1], dtype=str(rows.dtype)) as writer:
        for start in range(0, len(rows), 1024):
            writer.append(np.asarray(rows[start : start + 1024]))


def _exact(options: argparse.Namespace) -> None:
    import torch

    from bench.reference import exact

    torch.set_num_threads(options.threads)
    exact(options.path, options.components, options.top)


def _npy(options: argparse.Namespace) -> None:
    from bench.inputs import write_npy

    write_npy(options.path, options.out)


def _pickle(options: argparse.Namespace) -> None:
    from bench.inputs import write_pickle

    write_pickle(options.path, options.out)


def _rates(options: argparse.Namespace) -> None:
    from bench.machine import all_rates

    panels = [int(text) for text in options.panels.split(",")]
    rates = all_rates(
        options.path, options.dtype, options.columns, options.width, panels, options.threads, quick=options.quick
    )
    options.out.write_text(json.dumps([rate.as_dict() for rate in rates]))


def _captured(options: argparse.Namespace) -> None:
    """Write the variance in the span of each answer, as a share of that in the exact one."""
    import torch

    from bench.judge import Answer
    from bench.reference import captured, exact

    torch.set_num_threads(options.threads)
    reference = exact(options.path, options.components, options.top)
    shares = [captured(options.path, Answer.load(answer).directions, reference) for answer in options.answers]
    options.out.write_text(json.dumps(shares))


_PIECES = {
    "store": _store,
    "rows": _rows,
    "exact": _exact,
    "npy": _npy,
    "pickle": _pickle,
    "rates": _rates,
    "captured": _captured,
}

if __name__ == "__main__":
    main()
