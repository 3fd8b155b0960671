"""The law: a panel, and a job, ask no more of the card than today: launches a panel, waits and copies of both.

With plain torch's kernels; those of the fused ones stand in ``test_double_fused.py``. The numbers are today's, to be
lowered with what asks less.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from device_jobs import N, make_store
from double_place import DoublePlace, PanelCounts

pytestmark = pytest.mark.cuda_double

LAYERS: dict[str, Any] = {"hidden": 50, "layer_ids": (3, 7, 11, 15)}
TWO_READS: dict[str, Any] = {"solver": "krylov", "tolerance": 1e-9, "max_reads": 2}
# A panel of the first read and of a later one, between two flushes. Plain torch waits for the number of bad rows.
TODAY: dict[str, tuple[dict[str, Any], PanelCounts, PanelCounts]] = {
    "no layers": (
        {},
        PanelCounts(launches=37, waits=1, copies_to_host=5),
        PanelCounts(launches=20, waits=1, copies_to_host=1),
    ),
    "four layers": (
        LAYERS,
        PanelCounts(launches=50, waits=1, copies_to_host=5),
        PanelCounts(launches=20, waits=1, copies_to_host=1),
    ),
}
ROW_NUMBERS = 8 + 4 + 1 + 1  # bytes a row that a first read sends: norm, distance from the mean, two flags


@pytest.fixture
def place(guard_folder: Path) -> DoublePlace:
    return DoublePlace(guard_folder)


@pytest.mark.parametrize("layout", TODAY)
def test_a_panel(place: DoublePlace, tmp_path: Path, layout: str) -> None:
    options, first, later = TODAY[layout]
    reads = place.panels(make_store(tmp_path, **options), **TWO_READS)
    assert len(reads) == 2 and all(len(panels) > 1 for panels in reads)
    for panels, most in zip(reads, (first, later), strict=True):
        seen = PanelCounts.most(panels)
        assert seen.within(most), f"{seen}, today's most is {most}"


def test_a_job(place: DoublePlace, tmp_path: Path) -> None:
    """What comes back is kept projections, the numbers of every row, and small matrices: no copy of the rows."""
    found = place.discover(make_store(tmp_path), **TWO_READS)
    widths = [stage["products"][0]["columns"] for stage in found.manifest["stages"] if "products" in stage]
    of_rows = N * (sum(4 * (width - 1) for width in widths) + ROW_NUMBERS)
    asked = place.counts
    assert asked.waits.total() <= 100, f"more than today: {asked.waits}"
    assert asked.copies_to_host <= 45 and asked.bytes_to_host <= of_rows + 344_000, "more than today"
    assert asked.bytes_to_card <= 2_300_000, "more than today: the rows once (1.2 MB), and what was sampled of them"
