"""Law: a job of several processes that is told to stop ends with 75 in each, wherever each was, and goes on later.

Also where one process is far ahead, and none ends before Slurm has been told: srun ends all with the first one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster.groups import environment, free_port
from cluster.runs import at_work, manifest, same_bits

pytestmark = pytest.mark.cluster

SLOWLY = Path(__file__).with_name("slowly.py")


def start(store: Path, folder: Path, *options: str, **variables: str) -> list[subprocess.Popen[str]]:
    """Two processes of one job, slowed down."""
    (folder / "marks").mkdir(parents=True, exist_ok=True)
    place = f"127.0.0.1:{free_port()}"
    return [
        subprocess.Popen(
            [
                *(sys.executable, SLOWLY, "discover", store, folder / "run", *options, "--rendezvous", place),
                *("--process-index", str(rank), "--world-size", "2"),
            ],
            env=environment(MARKS=str(folder / "marks"), RANK=str(rank), **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def ended(processes: list[subprocess.Popen[str]], limit: float = 60) -> tuple[list[int], list[str]]:
    """Exit codes and what was said on stderr."""
    end = time.monotonic() + limit
    try:
        said = [process.communicate(timeout=max(end - time.monotonic(), 0.01))[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [process.returncode for process in processes], said


@pytest.mark.parametrize(("pauses", "told"), [("0,1", 1), ("1,0", 1), ("1,0", 0), ("0.5,0.5", 0)])
def test_told_to_stop_both_end_with_a_checkpoint_and_resume(
    sample: Path, tmp_path: Path, undisturbed: Path, pauses: str, told: int
) -> None:
    store = sample / "activations.zarr"
    processes = start(store, tmp_path, PAUSE=pauses)
    at_work(tmp_path / "marks", 2, 2, log=str)
    time.sleep(1)  # one without a pause has come to the end of its rows and waits there
    processes[told].send_signal(signal.SIGUSR1)
    codes, said = ended(processes)
    assert codes == [75, 75], said
    assert all("with a checkpoint" in text for text in said)
    assert manifest(tmp_path / "run")["status"] == "stopped"
    codes, said = ended(start(store, tmp_path))
    assert codes == [0, 0], said
    same_bits(tmp_path / "run", undisturbed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    store = Path(__file__).resolve().parents[2] / "bench" / "sample" / "activations.zarr"
    codes, said = ended(start(store, folder))
    assert codes == [0, 0], said
    return folder / "run"


def test_none_ends_before_slurm_has_been_told(sample: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text("#!/bin/sh\nsleep 2\n")
    (programs / "scontrol").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    store = sample / "activations.zarr"
    processes = start(store, tmp_path, "--requeue", PAUSE="0.5", PATH=path, SLURM_JOB_ID="4711")
    at_work(tmp_path / "marks", 2, 2, log=str)
    processes[1].send_signal(signal.SIGTERM)
    began = time.monotonic()
    processes[1].wait(60)
    assert time.monotonic() - began > 2
    codes, said = ended(processes)
    assert codes == [75, 75] and "job 4711 is back in the queue" in said[0], said
    assert "4711" not in said[1]
