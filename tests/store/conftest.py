"""Arrays written by zarr itself: what other people's stores look like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[..., Path]:
    """Writes an array with zarr and returns its folder."""
    import zarr

    def write(values: np.ndarray, name: str = "foreign.zarr", **options: Any) -> Path:
        attributes = options.pop("attributes", None)
        array = zarr.create_array(
            tmp_path / name,
            shape=values.shape,
            dtype=options.pop("dtype", values.dtype),
            config={"write_empty_chunks": options.pop("write_empty_chunks", True)},
            attributes=attributes,
            **options,
        )
        array[:] = values
        return tmp_path / name

    return write


@pytest.fixture
def rows() -> np.ndarray:
    """float16, (103, 12): chunks of 8 or 16 rows do not divide it."""
    return np.random.default_rng(1).standard_normal((103, 12)).astype(np.float16)
