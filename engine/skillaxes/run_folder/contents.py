"""Contents of a run folder: its arrays and tables, or its directions one by one with lists and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillaxes.errors import RunFolderError
from skillaxes.run_folder import schema
from skillaxes.run_folder.directions import Directions, read_directions
from skillaxes.run_folder.histograms import Histogram, read_histograms
from skillaxes.run_folder.labels import read_labels
from skillaxes.run_folder.manifest import DONE, read_manifest
from skillaxes.run_folder.schema import RANKINGS, DirectionStats, Manifest
from skillaxes.run_folder.tables import read_table

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Discovery:
    """The result of a job.

    Attributes
    ----------
    directions : ndarrays of ``directions.safetensors``, float32: components (k, d), mean (d,) and more
    topk : the table of ``topk.parquet``: the rows at both ends of every direction
    manifest : ``manifest.json``: the job, its effort and its findings
    run_dir : the run folder; None for a result in memory
    """

    directions: Directions
    topk: pa.Table
    manifest: Manifest
    run_dir: Path | None


def load(run_dir: str | Path) -> Discovery:
    """Read the result of a job from its run folder.

    Raises
    ------
    RunFolderError : no run folder, or one without these files
    """
    folder = Path(run_dir)
    manifest = read_manifest(folder)
    return Discovery(read_directions(folder), read_table(folder, schema.TOPK), manifest, folder)


@dataclass(frozen=True)
class ListedRow:
    """One row of a top-k list; its fields are columns of ``topk.parquet``."""

    row: int
    trace_id: str | None
    cosine: float
    cosine_centered: float | None
    projection: float
    certified: bool

    def score(self, rank_by: str) -> float | None:
        """The score named ``rank_by``, a key of :data:`skillaxes.run_folder.schema.RANKINGS`."""
        return getattr(self, RANKINGS[rank_by].topk_column)


@dataclass(frozen=True)
class Direction:
    """One direction of a run.

    Attributes
    ----------
    index : counted from 0, by falling variance
    stats : figures of the direction
    layer_energy : share of its squared entries in each layer; empty where the layers are unknown
    ends : top-k rows of each side, the most extreme first
    label : its record of ``labels.jsonl``; None without one
    """

    index: int
    stats: DirectionStats
    layer_energy: tuple[float, ...]
    ends: Mapping[str, tuple[ListedRow, ...]]
    label: Mapping[str, Any] | None


@dataclass(frozen=True)
class Contents:
    """A finished run folder.

    Attributes
    ----------
    run_dir : the folder
    manifest : ``manifest.json``
    vectors : ``directions.safetensors``
    directions : the directions one by one, each with its figures, rows and label
    """

    run_dir: Path
    manifest: Manifest
    vectors: Directions
    directions: tuple[Direction, ...]

    @property
    def rank_by(self) -> str:
        """The name of the ranking: one of :data:`skillaxes.run_folder.schema.RANKINGS`."""
        return str(self.manifest.get("config", {}).get("rank_by", schema.RAW_COSINE))

    @property
    def is_labelled(self) -> bool:
        """Whether any direction has a label or a failure in its place."""
        return any(direction.label for direction in self.directions)

    @cached_property
    def histograms(self) -> dict[str, list[Histogram]]:
        """By score, one histogram for each direction; computed at the first use. See :func:`read_histograms`."""
        return read_histograms(self.run_dir, self.vectors)


def read_contents(run_dir: str | Path) -> Contents:
    """Read a run folder.

    Raises
    ------
    RunFolderError : no run folder, an unfinished run, or a file that cannot be read
    """
    run_dir = Path(run_dir)
    manifest = read_finished_manifest(run_dir)
    vectors = read_directions(run_dir)
    labels = {record["direction"]: record for record in read_labels(run_dir)}
    ends = _listed_rows(run_dir)
    stats = {entry["index"]: entry for entry in manifest.get("directions", [])}
    energy = (manifest.get("layers") or {}).get("direction_energy") or []
    directions = tuple(
        Direction(
            index=index,
            stats=DirectionStats.from_json(
                {"index": index, **stats.get(index, {}), "explained_variance_ratio": float(ratio)}
            ),
            layer_energy=tuple(energy[index]) if index < len(energy) else (),
            ends={side: tuple(ends.get((index, side), [])) for side in schema.SIDES},
            label=labels.get(index),
        )
        for index, ratio in enumerate(vectors.explained_variance_ratio)
    )
    return Contents(run_dir, manifest, vectors, directions)


def read_finished_manifest(run_dir: Path) -> Manifest:
    """The manifest of a finished run.

    Raises
    ------
    RunFolderError : no run folder, or a run that is running, stopped or failed
    """
    manifest = read_manifest(run_dir)
    if manifest.get("status") != DONE:
        raise RunFolderError(
            f"{run_dir}: the run is not finished (status: {manifest.get('status')}); run the same command again"
        )
    return manifest


def _listed_rows(run_dir: Path) -> dict[tuple[int, str], list[ListedRow]]:
    """The rows of each list, by direction and side."""
    entries = read_table(run_dir, schema.TOPK).to_pylist()
    ends: dict[tuple[int, str], list[ListedRow]] = {}
    for entry in sorted(entries, key=lambda entry: entry["position"]):
        rows = ends.setdefault((entry["direction"], entry["side"]), [])
        rows.append(ListedRow(**{name: entry[name] for name in ListedRow.__dataclass_fields__}))
    return ends
