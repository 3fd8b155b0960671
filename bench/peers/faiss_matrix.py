"""faiss: a trained PCAMatrix for the directions, then an exact inner product search over unit rows for both signs."""

from __future__ import annotations

import argparse

from bench.peers.program import Clock, run


def _job(options: argparse.Namespace, clock: Clock):  # type: ignore[no-untyped-def]
    import faiss
    import numpy as np

    from bench.judge import Answer

    faiss.omp_set_num_threads(options.threads)
    rows = np.load(options.source).astype(np.float32)
    clock.mark("load")
    pca = faiss.PCAMatrix(rows.shape[1], options.components)
    pca.max_points_per_d = max(1000, rows.shape[0])  # it would take a sample of the rows otherwise
    pca.train(rows)
    directions = faiss.vector_to_array(pca.A).reshape(options.components, rows.shape[1])
    clock.mark("pca")
    faiss.normalize_L2(rows)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    _, positive = index.search(directions, options.top)
    _, negative = index.search(-directions, options.top)
    clock.mark("rank")
    return Answer(directions, positive, negative)


if __name__ == "__main__":
    run(("numpy", "faiss", "bench.judge"), _job)
