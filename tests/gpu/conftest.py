"""The laws of jobs and kernels live beside the tests that hold them on the CPU; test files are no package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("stream", "kernels", "gpu")]


@pytest.fixture(scope="session")
def guard_folder(request: pytest.FixtureRequest) -> Path:
    """Where the double's compiled guard is kept; tests that ask for it skip where there can be no double."""
    from support.cuda_double import missing

    if (reason := missing()) is not None:
        pytest.skip(reason)
    return Path(request.config.cache.mkdir("cuda-double"))
