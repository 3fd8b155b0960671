"""Law: whichever process dies in whichever phase, the others end within 30 seconds and name it; nothing hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cluster.groups import Group, environment, free_port, run

slow = pytest.mark.cluster
STALLING = str(Path(__file__).with_name("stalling.py"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 rows in chunks of 100; wide enough for the Krylov solver."""
    from skillaxes import create_store

    random = np.random.default_rng(0)
    rows = random.normal(size=(2000, 60)) * np.arange(1, 61) ** -0.7 @ random.normal(size=(60, 1100)) + 3
    path = tmp_path_factory.mktemp("failures") / "store.zarr"
    with create_store(path, n_features=1100, dtype="float32", chunk_rows=100) as writer:
        writer.append(rows.astype(np.float32))
    return path


def killed_in(store: Path, run_dir: Path, phase: str, victim: int, size: int, **env: str) -> tuple[list, dict]:
    """Let a process die in a phase; what became of the others, and of the manifest."""
    mark = run_dir.with_name("mark")
    more = {"VICTIM": str(victim), "PHASE": phase, "MARK": str(mark), **env}
    group = Group(size, ["discover", store, run_dir], program=[STALLING], env=more)
    limit = time.monotonic() + 60
    while not mark.exists():
        assert time.monotonic() < limit and group.processes[victim].poll() is None, [p.poll() for p in group.processes]
        time.sleep(0.05)
    time.sleep(1)  # so that the others come as far as they can
    os.kill(int(mark.read_text()), signal.SIGKILL)
    return group.wait(30), json.loads((run_dir / "manifest.json").read_text())


def assert_named(ended: list, manifest: dict, victim: int) -> None:
    name = f"process {victim} of {len(ended)} ("
    for rank, one in enumerate(ended):
        if rank == victim:
            assert one.code == -signal.SIGKILL
        else:
            assert one.code == 1
            said = one.err.strip().splitlines()[-1]
            assert said.startswith(f"skillaxes: process {rank} of {len(ended)} (") and name in said, one.err
    assert manifest["status"] == "failed"
    assert name in manifest["failure"]


@pytest.mark.parametrize(
    ("phase", "victim"),
    [
        ("read", 2),
        *(
            pytest.param(*case, marks=slow)
            for case in (("sample", 1), ("collective", 1), ("ranking", 0), ("writing", 0))
        ),
    ],
)
def test_a_killed_process_ends_the_others(store: Path, tmp_path: Path, phase: str, victim: int) -> None:
    ended, manifest = killed_in(store, tmp_path / "run", phase, victim, 3, SILENCE="3")
    assert_named(ended, manifest, victim)


@slow
def test_as_shipped_it_takes_less_than_thirty_seconds(store: Path, tmp_path: Path) -> None:
    ended, manifest = killed_in(store, tmp_path / "run", "read", 1, 2)
    assert_named(ended, manifest, 1)
    assert max(one.seconds for one in ended) < 25


def test_a_failure_is_told_by_the_process_that_failed(tmp_path: Path, store: Path) -> None:
    """A NaN in the rows of process 1: its message is whole, the others' names it; nothing is left behind."""
    import zarr

    from skillaxes import create_store

    rows = np.array(zarr.open_array(store, mode="r")[:])
    rows[1500, 3] = np.nan
    with create_store(tmp_path / "bad.zarr", n_features=1100, dtype="float32", chunk_rows=100) as writer:
        writer.append(rows)
    ended = run(2, "discover", tmp_path / "bad.zarr", tmp_path / "run")
    assert [one.code for one in ended] == [2, 2]
    assert "skillaxes: process 1 of 2 (" in ended[1].err and "NaN or infinity in row 1,500" in ended[1].err
    last = ended[0].err.strip().splitlines()[-1]
    assert last.startswith("skillaxes: process 0 of 2 (") and "process 1 of 2 (" in last and "row 1,500" in last
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_shared_is_refused(tmp_path: Path, store: Path) -> None:
    """By one message and the others' lines, before a row is read."""
    traces = tmp_path / "traces.jsonl"
    traces.write_text('{"input": "a", "output": "b"}\n' * 2000)
    ended = run(2, "run", store, tmp_path / "a", "--traces", traces, "--labeler", "openai")
    assert [one.code for one in ended] == [2, 2]
    assert "run discover here, then `skillaxes label RUN_DIR` where there is network" in ended[0].err
    assert ended[1].err == "" and not (tmp_path / "a").exists()


@slow
def test_what_no_process_can_do_is_refused_by_all(store: Path, tmp_path: Path) -> None:
    ended = run(3, "discover", store, tmp_path / "b", "--components", "5000")
    assert [one.code for one in ended] == [2, 2, 2]
    assert sum("at most 1,100 principal directions" in one.err for one in ended) == 3
    from skillaxes import create_store

    with create_store(tmp_path / "few.zarr", n_features=8, dtype="float32", chunk_rows=64) as writer:
        writer.append(np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32))
    ended = run(3, "discover", tmp_path / "few.zarr", tmp_path / "c", "--components", "2")
    assert all("3 processes for a store of 2 chunks" in one.err for one in ended)


def test_a_process_that_never_comes_is_named(store: Path, tmp_path: Path) -> None:
    """The wait has an end, and the message says for whom."""
    program = (
        "import sys; from skillaxes.cluster import rendezvous as d; d.RENDEZVOUS = 8; "
        "from skillaxes.cli import main; sys.exit(main())"
    )
    here = f"127.0.0.1:{free_port()}"
    words = ["discover", store, tmp_path / "run", "--process-index", 0, "--world-size", 2, "--rendezvous", here]
    command = [sys.executable, "-c", program, *map(str, words)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "process 0 of 2 waited 8 s for process 1" in ended.stderr
