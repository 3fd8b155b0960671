"""Law: writers of disjoint parts make one store, in any order or at once, and one that dies leaves it unfinished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skillaxes.errors import StoreError, UsageError
from skillaxes.store import create_store, open_store, open_writer
from skillaxes.store.dtypes import convert

ENGINE = str(Path(__file__).resolve().parents[2] / "engine")


def made(n_rows: int, width: int, dtype: str) -> np.ndarray:
    values = np.random.default_rng(n_rows * width).standard_normal((n_rows, width)).astype(np.float32)
    return convert(values, "float32", dtype)


def test_several_writers_in_any_order(tmp_path: Path) -> None:
    values = made(1003, 6, "float32")
    path = tmp_path / "s"
    file_rows = create_store(path, dtype="float32", n_rows=1003, n_features=6, chunk_rows=10, shard_size=2400).file_rows
    assert file_rows == 100
    for start, stop in ((900, 1003), (0, 300), (300, 900)):
        with pytest.raises(StoreError, match="unfinished"):
            open_store(path)
        with open_writer(path, start, stop) as writer:
            for at in range(start, stop, 7):
                end = min(at + 7, stop)
                writer.append(values[at:end], [str(row) for row in range(at, end)])
    store = open_store(path)
    np.testing.assert_array_equal(store.read_rows(0, 1003), values)
    assert store.trace_ids([0, 299, 300, 1002]) == ["0", "299", "300", "1002"]
    assert not (path / "parts").exists()


def test_a_part_that_failed_is_written_again(tmp_path: Path) -> None:
    values = made(64, 6, "float16")
    path = tmp_path / "s"
    create_store(path, dtype="float16", n_rows=64, n_features=6, chunk_rows=8)
    with pytest.raises(RuntimeError), open_writer(path, 0, 32) as writer:
        writer.append(values[:20])
        raise RuntimeError("the node went away")
    with open_writer(path, 32, 64) as writer:
        writer.append(values[32:])
    with pytest.raises(StoreError, match="unfinished"):
        open_store(path)
    with open_writer(path, 0, 32) as writer:
        writer.append(values[:32])
    np.testing.assert_array_equal(open_store(path).read_rows(0, 64), values)


def test_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s"
    create_store(path, dtype="float32", n_rows=400, n_features=4, chunk_rows=10)
    program = (
        "import sys, numpy as np\n"
        "from skillaxes.store import open_writer\n"
        "start = int(sys.argv[2])\n"
        "with open_writer(sys.argv[1], start, start + 100) as writer:\n"
        "    rows = np.arange(start, start + 100, dtype=np.float32)[:, None] * np.ones(4, np.float32)\n"
        "    writer.append(rows, [str(row) for row in range(start, start + 100)])\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path), str(start)], env={**os.environ, "PYTHONPATH": ENGINE}
        )
        for start in (0, 100, 200, 300)
    ]
    assert [process.wait(60) for process in running] == [0] * 4
    store = open_store(path)
    np.testing.assert_array_equal(store.read_rows(0, 400)[:, 0], np.arange(400))
    assert store.trace_ids([399]) == ["399"]


def test_a_writer_that_was_killed_leaves_an_unfinished_store(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, numpy as np\n"
        "from skillaxes.store import create_store\n"
        "writer = create_store(sys.argv[1], dtype='float32', n_rows=100, n_features=4, chunk_rows=10)\n"
        "writer.append(np.ones((95, 4), np.float32))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "s"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env={**os.environ, "PYTHONPATH": ENGINE}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (path / "c" / "3" / "0").exists()
    with pytest.raises(StoreError, match="is unfinished"):
        open_store(path)
    # It can be replaced, but only when that is asked for.
    with pytest.raises(StoreError, match="exists already"):
        create_store(path, dtype="float32", n_features=4)
    with create_store(path, dtype="float32", n_features=4, overwrite=True) as writer:
        writer.append(np.ones((5, 4), np.float32))
    assert open_store(path).n_rows == 5


def test_parts_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(StoreError, match="there is no store at"):
        open_writer(path, 0, 1)
    create_store(path, dtype="float32", n_features=4, n_rows=100, chunk_rows=10)
    for start, stop in ((5, 20), (0, 15), (0, 101), (20, 20), (-10, 10)):
        with pytest.raises(UsageError, match="needed: multiples of 10"):
            open_writer(path, start, stop)
    with pytest.raises(StoreError, match="31 rows were appended"), open_writer(path, 0, 30) as writer:
        writer.append(np.ones((31, 4), np.float32))
    with create_store(path, dtype="float32", n_features=4, overwrite=True) as writer:
        with pytest.raises(StoreError, match="created without n_rows"):
            open_writer(path, 0, 10)
        writer.append(np.ones((3, 4), np.float32))
    with pytest.raises(StoreError, match="is finished; write to a new store"):
        open_writer(path, 0, 3)
    with pytest.raises(StoreError, match="is closed"):
        writer.append(np.ones((3, 4), np.float32))
