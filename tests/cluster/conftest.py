"""The Slurm of the tests in this folder; without root or apt-get they skip with the reason."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.slurm import Slurm, running, why_not

ROOT = Path(__file__).resolve().parents[2]
SLOWLY = Path(__file__).with_name("slowly.py")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Two nodes; in their jobs ``python`` is this one and ``skillaxes`` this checkout's, by ``slowly.py``."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    programs = tmp_path_factory.mktemp("bin")
    for name, call in (("python", sys.executable), ("skillaxes", f"{sys.executable} {SLOWLY}")):
        (programs / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (programs / name).chmod(0o755)
    path = [str(programs), os.environ.get("PATH", os.defpath)]
    rooms = [str(ROOT / "engine"), str(ROOT / "kernels")]
    with running(PATH=os.pathsep.join(path), PYTHONPATH=os.pathsep.join(rooms)) as started:
        yield started
