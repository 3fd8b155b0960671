"""The store that the tests of the reader read, in every layout, and a whole read of it."""

from __future__ import annotations

import numpy as np
import torch

from skillaxes.stream.reader import Reader

N, D, CHUNK = 3000, 40, 100
LAYOUTS = {
    "plain": {"chunk_rows": CHUNK},
    "shards": {"chunk_rows": CHUNK, "shard_size": CHUNK * D * 2 * 4},
    "compressed": {"chunk_rows": CHUNK, "compressed": True},
    "plain, not local": {"chunk_rows": CHUNK},
}


def all_rows(reader: Reader, verify: bool = True) -> np.ndarray:
    parts, at = [], reader._first
    for start, block in reader.fetch_units(verify=verify):
        assert start == at, "units come in order and leave nothing out"
        parts.append(block.clone())
        at += len(block)
    return torch.cat(parts).double().numpy()
