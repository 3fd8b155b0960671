"""Ours from Python. All it needs is imported first, so that the clock after imports shows the work alone."""

from __future__ import annotations

import argparse

from bench.peers.program import Clock, extra, run

_IMPORTS = (
    *("numpy", "torch", "zarr", "zarrs", "pyarrow.parquet", "safetensors.torch"),
    *("skillaxes", "skillaxes.api", "skillaxes_kernels.api", "bench.judge", "skillaxes.memory"),
    *("numpy.random", "crc32c", "safetensors.numpy"),
)


def _job(options: argparse.Namespace, clock: Clock):  # type: ignore[no-untyped-def]
    import skillaxes
    from bench.judge import Answer
    from skillaxes.memory import parse_size

    memory = extra(options).get("memory")
    found = skillaxes.discover(
        options.source,
        options.out / "run",
        components=options.components,
        top=options.top,
        memory=None if memory in (None, "auto") else parse_size(memory),
    )
    clock.mark("discover")
    return Answer.from_discovery(found)


if __name__ == "__main__":
    run(_IMPORTS, _job)
