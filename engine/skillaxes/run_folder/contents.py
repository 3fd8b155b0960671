"""``discover``: from a store to directions and the rows at their ends, in a run folder or in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.directions import Directions, read_directions
from skillaxes.run_folder.schema import TOPK, Manifest
from skillaxes.run_folder.tables import read_table

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Discovery:
    """What ``discover`` found.

    Attributes
    ----------
    directions : components (k, d), mean (d,) and their numbers, float32
    topk : the rows at both ends of every direction, as ``topk.parquet`` holds them
    manifest : what was done and what has to be announced
    run_dir : where it was written; None if nowhere
    """

    directions: Directions
    topk: pa.Table
    manifest: Manifest
    run_dir: Path | None


def load(run_dir: str | Path) -> Discovery:
    """What a run folder holds.

    Raises
    ------
    RunFolderError : it is no run folder, or not complete
    """
    folder = Path(run_dir)
    manifest = manifests.read_manifest(folder)
    return Discovery(read_directions(folder), read_table(folder, TOPK), manifest, folder)
