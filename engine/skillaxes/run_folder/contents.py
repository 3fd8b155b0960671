"""What a run folder holds, read once and checked, as the page needs it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skillaxes.errors import RunFolderError
from skillaxes.run_folder import formats
from skillaxes.run_folder.directions import Directions, read_directions
from skillaxes.run_folder.manifest import DONE, read_manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 72
_FINE = 4800  # bins of the one pass over the scores, merged into BINS once the range is known
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Row:
    """One row of a top-k list."""

    row: int
    trace_id: str | None
    cosine: float
    cosine_centered: float | None
    projection: float
    settled: bool


@dataclass(frozen=True)
class Histogram:
    """How many rows have which score. ``edges`` (bins + 1,), ``counts`` (bins,)."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Direction:
    """Everything the folder says about one direction."""

    index: int
    variance_ratio: float
    facts: dict[str, Any]
    layer_energy: tuple[float, ...]
    ends: dict[str, list[Row]]
    label: dict[str, Any] | None
    histograms: dict[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """A run folder."""

    run_dir: Path
    manifest: dict[str, Any]
    directions: tuple[Direction, ...]

    @property
    def rank_by(self) -> str:
        return str(self.manifest.get("config", {}).get("rank_by", formats.RAW_COSINE))

    @property
    def labelled(self) -> bool:
        return any(direction.label for direction in self.directions)


def read_contents(run_dir: Path) -> Contents:
    """Read a run folder.

    Raises
    ------
    RunFolderError : no finished run lies there, or a file of it cannot be read
    """
    run_dir = Path(run_dir)
    manifest = read_manifest(run_dir)
    if manifest.get("status") != DONE:
        raise RunFolderError(
            f"{run_dir}: the run is not finished (status: {manifest.get('status')}); run the same command again"
        )
    found = read_directions(run_dir)
    ends = _read_topk(run_dir)
    labels = _read_labels(run_dir)
    facts = {entry["index"]: entry for entry in manifest.get("directions", [])}
    energy = (manifest.get("layers") or {}).get("direction_energy") or []
    histograms = _histograms(run_dir, found)
    directions = tuple(
        Direction(
            index=index,
            variance_ratio=float(ratio),
            facts=facts.get(index, {}),
            layer_energy=tuple(energy[index]) if index < len(energy) else (),
            ends={side: ends.get((index, side), []) for side in formats.SIDES},
            label=labels.get(index),
            histograms={name: by_direction[index] for name, by_direction in histograms.items()},
        )
        for index, ratio in enumerate(found.explained_variance_ratio)
    )
    return Contents(run_dir, manifest, directions)


def _read_topk(run_dir: Path) -> dict[tuple[int, str], list[Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run_dir / formats.TOPK
    try:
        entries = pq.read_table(path, columns=formats.TOPK_SCHEMA.names).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); run skillaxes discover again with --overwrite"
        ) from error
    ends: dict[tuple[int, str], list[Row]] = {}
    for entry in sorted(entries, key=lambda entry: entry["position"]):
        rows = ends.setdefault((entry["direction"], entry["side"]), [])
        rows.append(Row(**{name: entry[name] for name in Row.__dataclass_fields__}))
    return ends


def _read_labels(run_dir: Path) -> dict[int, dict[str, Any]]:
    path = run_dir / formats.LABELS
    if not path.is_file():
        return {}
    records = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            records[int(record["direction"])] = record
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{path}: line {number} is no label; skillaxes label --overwrite writes them again"
            ) from error
    return records


def _histograms(run_dir: Path, directions: Directions) -> dict[str, list[Histogram]]:
    """Of each direction: raw cosines, centred cosines, projections in standard deviations; one pass, bounded memory."""
    if not (run_dir / formats.SCORES).is_dir():
        return {}
    import zarr

    scores: Any = zarr.open_group(str(run_dir / formats.SCORES), mode="r")
    n_rows, k = scores["projection"].shape
    along_mean = (directions.components.astype(np.float64) @ directions.mean.astype(np.float64)).astype(np.float32)
    deviation = np.sqrt(np.maximum(directions.explained_variance, np.finfo(np.float32).tiny)).astype(np.float32)
    limits = {formats.RAW_COSINE: 1.0, formats.CENTERED_COSINE: 1.0, formats.PROJECTION: 12.0}
    fine = {name: np.zeros((k, _FINE), np.int64) for name in limits}
    step = max(1, _ROWS_AT_ONCE // max(1, k))
    for start in range(0, n_rows, step):
        part = slice(start, start + step)
        projection, norm, centered = (scores[name][part] for name in ("projection", "norm", "centered_norm"))
        with np.errstate(divide="ignore", invalid="ignore"):
            values = {
                formats.RAW_COSINE: (projection + along_mean) / norm[:, None],
                formats.CENTERED_COSINE: projection / centered[:, None],
                formats.PROJECTION: projection / deviation,
            }
        for name, limit in limits.items():
            for index in range(k):
                column = values[name][norm > 0, index]  # rows of zeros and rows left out have no score
                column = column[np.isfinite(column)]
                fine[name][index] += np.histogram(np.clip(column, -limit, limit), _FINE, (-limit, limit))[0]
    return {name: [_merged(counts, limits[name]) for counts in fine[name]] for name in limits}


def _merged(fine: NDArray[np.int64], limit: float) -> Histogram:
    """Fine bins as at most BINS over the range that holds rows."""
    edges = np.linspace(-limit, limit, _FINE + 1)
    filled = np.flatnonzero(fine)
    if filled.size == 0:
        return Histogram(edges[[0, -1]], np.zeros(1, np.int64))
    first, last = int(filled[0]), int(filled[-1]) + 1
    width = -(-(last - first) // BINS)
    starts = np.arange(first, last, width)
    ends = np.append(starts[1:], min(_FINE, starts[-1] + width))
    return Histogram(np.append(edges[starts], edges[ends[-1]]), np.add.reduceat(fine[: ends[-1]], starts))
