"""Test files are no package: what they share is found by its folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The file that a hostile pickle makes if anything of it runs; it must not be there when the test ends."""
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists()
