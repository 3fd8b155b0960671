"""The forecast for a store that is not there: time and traffic of W processes, from a shape and stated rates.

::

    python -m bench.cluster_plan --rows 10000000 --columns 122880 --itemsize 2 --gpu --processes 1 8 64 512
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from skillaxes.pca.krylov import block_columns
from skillaxes.run.forecast import Shape, every_read, forecast, limits, rates_from

CHUNK_BYTES = 64 << 20  # of the chunks that the store would have


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line for each number of processes, and the number at which each resource becomes the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--columns", type=int, required=True)
    parser.add_argument("--itemsize", type=int, default=2, help="bytes of a number")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--reads", type=int, default=3)
    parser.add_argument("--gpu", action="store_true", help="one GPU a process")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rate", action="append", default=[], metavar="NAME=N")
    given = parser.parse_args(arguments)
    rates = rates_from(given.rate)
    shape = Shape(
        n_rows=given.rows,
        n_columns=given.columns,
        itemsize=given.itemsize,
        chunk_rows=max(1, CHUNK_BYTES // (given.columns * given.itemsize)),
        block_size=block_columns(given.components, given.columns, storage_bound=given.gpu),
        reads=given.reads,
        n_layers=given.layers,
        on_gpu=given.gpu,
    )
    print("| processes | rows each | kept on the GPU | first read | later read | of it traffic | all reads |")
    print("|---|---|---|---|---|---|---|")
    for processes in given.processes:
        seen = forecast(shape, processes, rates)
        print(
            f"| {processes} | {shape.nbytes / processes / 1e9:,.1f} GB | {seen.kept:.0%} | {_seconds(seen.first)} | "
            f"{_seconds(seen.later)} | {seen.traffic:.2g} s | {_seconds(seen.total)} |"
        )
    handed = every_read(shape)[-1]
    print(f"\nhanded over last: {handed['sum'] / 1e6:.1f} MB summed, {handed['broadcast'] / 1e6:.1f} MB sent")
    for name, at in limits(shape, rates).items():
        print(f"{name} becomes the limit at {f'{at:,} processes' if at else 'no number of processes'}")


def _seconds(value: float) -> str:
    """Three digits, never as a power of ten."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f} s" if rounded >= 1000 else f"{rounded:g} s"


if __name__ == "__main__":
    main()
