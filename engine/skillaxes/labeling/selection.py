"""``selection.parquet``: the rows at the ends of each direction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.errors import RunFolderError
from skillaxes.run_folder import schema

ORDER = "order"  # a random order of the rows; the other kinds of directions are those of the run folder
KINDS = (schema.COMPONENT, schema.RANDOM, ORDER)


@dataclass(frozen=True)
class Ranked:
    """Rows with their scores and norms, in order of position.

    Attributes
    ----------
    rows : (n,) int64
    scores : (n,) float32, the score that ranked them
    norms : (n,) float32, of the raw row
    """

    rows: np.ndarray
    scores: np.ndarray
    norms: np.ndarray


@dataclass(frozen=True)
class DirectionRows:
    """The rows of one direction.

    Attributes
    ----------
    kind : one of ``KINDS``
    index : counted within the kind
    positive, negative : both ends, most extreme first, as deep as they were kept
    middle : rows from the quantiles in between
    """

    kind: str
    index: int
    positive: Ranked
    negative: Ranked
    middle: Ranked


@dataclass(frozen=True)
class Selection:
    """The rows that ``discover`` hands to labeling.

    Attributes
    ----------
    digest : SHA-256 of the file
    n_rows : rows of the store
    rank_by : the score that ranked the rows
    top, pool : rows shown and rows kept at each end
    split_half : for each component, the absolute cosine between its directions of two halves of the rows, or None
    token_range, store : attributes of the store
    components, randoms : principal directions, and random directions of the same space
    samples : for each component, a sample of all rows with their scores
    trace_ids : row -> id, where the store has ids
    """

    path: Path
    digest: str
    n_rows: int
    rank_by: str
    top: int
    pool: int
    split_half: tuple[float | None, ...]
    token_range: Any
    store: Mapping[str, Any]
    components: tuple[DirectionRows, ...]
    randoms: tuple[DirectionRows, ...]
    samples: tuple[Ranked, ...]
    trace_ids: Mapping[int, str]


def read_selection(run_dir: Path) -> Selection:
    """Read the selection of a run folder.

    Raises
    ------
    RunFolderError : no such file, or one that another version or another program wrote
    """
    import pyarrow.parquet as pq

    path = Path(run_dir) / schema.SELECTION
    if not path.is_file():
        raise RunFolderError(
            f"{path} does not exist: labeling needs a run folder; type skillaxes discover STORE {run_dir}"
        )
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read as parquet ({error}): run skillaxes discover again") from error
    meta = json.loads((table.schema.metadata or {}).get(schema.SELECTION_META, b"{}"))
    missing = [column.name for column in schema.SELECTION_COLUMNS if column.name not in table.column_names]
    missing += [name for name in ("n_rows", "top") if name not in meta]
    if missing:
        raise RunFolderError(f"{path} lacks {', '.join(missing)}: it is not of format version {schema.FORMAT_VERSION}")

    codes = {name: np.asarray(table[name].to_pylist(), dtype=object) for name in ("kind", "role", "side")}
    columns = {name: table[name].to_numpy() for name in ("direction", "position", "row", "cosine", "norm")}

    def ranked(chosen: np.ndarray) -> Ranked:
        chosen = chosen[np.argsort(columns["position"][chosen], kind="stable")]
        return Ranked(columns["row"][chosen], columns["cosine"][chosen], columns["norm"][chosen])

    def directions(kind: str) -> list[tuple[DirectionRows, Ranked]]:
        of_kind = codes["kind"] == kind
        found = []
        for index in np.unique(columns["direction"][of_kind]).tolist():
            mine = np.flatnonzero(of_kind & (columns["direction"] == index))
            roles, sides = codes["role"][mine], codes["side"][mine]
            end = (roles == schema.SHOWN) | (roles == schema.HELD_OUT)
            found.append(
                (
                    DirectionRows(
                        kind,
                        index,
                        ranked(mine[end & (sides == schema.POSITIVE)]),
                        ranked(mine[end & (sides == schema.NEGATIVE)]),
                        ranked(mine[roles == schema.MIDDLE]),
                    ),
                    ranked(mine[roles == schema.SAMPLE]),
                )
            )
        return found

    components = directions(schema.COMPONENT)
    if not components:
        raise RunFolderError(f"{path} holds no direction: run skillaxes discover again")
    rows, ids = columns["row"].tolist(), table["trace_id"].to_pylist()
    split_half = meta.get("split_half") or []
    return Selection(
        path=path,
        digest=sha256(path.read_bytes()).hexdigest(),
        n_rows=int(meta["n_rows"]),
        rank_by=str(meta.get("rank_by", schema.RAW_COSINE)),
        top=int(meta["top"]),
        pool=int(meta.get("pool", meta["top"])),
        split_half=tuple(split_half) if split_half else (None,) * len(components),
        token_range=meta.get("token_range"),
        store=meta.get("store") or {},
        components=tuple(direction for direction, _ in components),
        randoms=tuple(direction for direction, _ in directions(schema.RANDOM)),
        samples=tuple(sample for _, sample in components),
        trace_ids={row: trace_id for row, trace_id in zip(rows, ids, strict=True) if trace_id is not None},
    )
