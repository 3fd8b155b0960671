"""The job that the tests of this folder stop, damage and go on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.stopping import Listening

import skillaxes

N, D, K = 2200, 96, 4


def again(store: Path, run_dir: Path, **options: Any) -> Listening:
    """Run the job in ``run_dir``, from its checkpoint if it has one; what it did and said."""
    progress = Listening()
    skillaxes.discover(store, run_dir, progress=progress, **{"components": K, "solver": "krylov", **options})
    return progress
