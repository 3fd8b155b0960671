"""dask: ``svd_compressed`` with QR power iterations on the centred rows of the store, then a graph for the cosines."""

from __future__ import annotations

import argparse

from bench.peers.program import Clock, extra, run


def _job(options: argparse.Namespace, clock: Clock):  # type: ignore[no-untyped-def]
    import dask
    import dask.array as da
    import numpy as np

    from bench.judge import Answer

    iterations = int(extra(options).get("iterations", 4))
    with dask.config.set(scheduler="threads", num_workers=options.threads):
        rows = da.from_zarr(str(options.source)).astype(np.float32)
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32).compute()
        _, _, v = da.linalg.svd_compressed(
            rows - mean, options.components, n_power_iter=iterations, iterator="QR", seed=0
        )
        directions = np.asarray(v.compute(), dtype=np.float32)
        clock.mark("pca")
        norms = da.sqrt((rows * rows).sum(axis=1, keepdims=True))
        cosines = (rows @ directions.T / norms).compute()
    order = np.argsort(cosines, axis=0, kind="stable")
    clock.mark("rank")
    return Answer(directions, order[::-1][: options.top].T, order[: options.top].T)


if __name__ == "__main__":
    run(("numpy", "dask", "dask.array", "zarr", "bench.judge"), _job)
