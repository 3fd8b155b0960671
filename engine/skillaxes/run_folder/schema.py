"""What lies in a run folder: names of files, columns of tables. Format version 1.

Rooms that only read or write run folders (labeling, report) depend on this module and on no solver.
"""

from __future__ import annotations

import pyarrow as pa

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
DIRECTIONS = "directions.safetensors"
SCORES = "scores.zarr"
TOPK = "topk.parquet"
SELECTION = "selection.parquet"
LABELS = "labels.jsonl"
REPORT = "report.html"
CHECKPOINT = "checkpoint"
POSITIVE = "positive"
NEGATIVE = "negative"
SIDES = (POSITIVE, NEGATIVE)
RAW_COSINE = "raw-cosine"
CENTERED_COSINE = "centered-cosine"
PROJECTION = "projection"
RANKINGS = (RAW_COSINE, CENTERED_COSINE, PROJECTION)
TOPK_SCHEMA = pa.schema(
    [
        pa.field("direction", pa.int32(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),  # 0 = most extreme
        pa.field("row", pa.int64(), nullable=False),
        pa.field("trace_id", pa.string()),
        pa.field("cosine", pa.float32(), nullable=False),  # of the raw row
        pa.field("cosine_centered", pa.float32()),  # of the row less the mean
        pa.field("projection", pa.float32(), nullable=False),  # on the centred row
        pa.field("settled", pa.bool_(), nullable=False),
    ]
)
# Roles of a row in selection.parquet.
SHOWN = "shown"  # the first `top` positions of a side: what a labeler may see
HELD_OUT = "held_out"  # the positions behind them, down to `pool`: what scores are made on
MIDDLE = "middle"  # rows from the quantiles in between
SAMPLE = "sample"  # a seeded sample of all rows (all of them in a small store): confounds, baselines
ROLES = (SHOWN, HELD_OUT, MIDDLE, SAMPLE)
# Kinds of direction in selection.parquet.
COMPONENT = "component"  # a principal direction; `direction` counts as in topk.parquet
RANDOM = "random"  # a random direction of the same space, the baseline of scores; counted from 0 by itself
SELECTION_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("direction", pa.int32(), nullable=False),
        pa.field("side", pa.string()),  # null for `middle` and `sample`
        pa.field("position", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("trace_id", pa.string()),
        pa.field("cosine", pa.float32(), nullable=False),  # the score that ranked the rows (`rank_by`)
        pa.field("norm", pa.float32(), nullable=False),  # of the raw row
    ]
)
# One JSON object under this key of the schema's metadata. Its fields:
#   n_rows        int            rows of the store
#   rank_by       str            one of RANKINGS
#   top, pool     int            positions shown and kept a side
#   split_half    [float]        |cos| between halves, a component direction each; null where unknown
#   token_range   any            what part of the text the row has seen; null where unknown
#   store         {fingerprint, model, revision, hook, pooling}   as far as known
SELECTION_META = b"skillaxes"
