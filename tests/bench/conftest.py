"""The benchmarks are no installed package: their tests import them from the root of the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture
def small_store(tmp_path: Path) -> Path:
    """A power-law store of 700 x 96, float16."""
    from bench.synthetic import Recipe, write_store

    path = tmp_path / "small.zarr"
    write_store(Recipe(700, 96), path)
    return path
