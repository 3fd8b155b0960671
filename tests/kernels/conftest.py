"""Paths and fixtures of the kernels' tests: the laws, the benchmarks, and a process that interprets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skillaxes_kernels.backends import native

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Test files are no package: shared modules are found by their folder.
sys.path[:0] = [str(HERE), str(ROOT)]


@pytest.fixture(autouse=True)
def _as_this_processor_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests name their backends, and hold the automatic choice against what is there."""
    monkeypatch.delenv(native.CPU_BACKEND, raising=False)


@pytest.fixture(scope="session")
def interpreted():
    """Runs a script of this folder under Triton's interpreter, in a process of its own."""

    def run(script: str, *arguments: str, interpret: bool = True) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join(str(ROOT / name) for name in ("engine", "kernels"))
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        environment.pop("TRITON_INTERPRET", None)
        if interpret:
            environment["TRITON_INTERPRET"] = "1"
        command = [sys.executable, str(HERE / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return run
