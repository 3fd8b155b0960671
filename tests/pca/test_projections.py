"""The law: kept projections are the same numbers in memory and on disk, and nothing stays on disk, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.pca.projections import BLOCK_ROWS, Projections, ProjectionStore, blocks


def filled(file: Path | None, first: int, n: int, width: int, piece: int) -> tuple[Projections, np.ndarray]:
    values = np.random.default_rng(0).standard_normal((n, width)).astype(np.float32)
    table = Projections(first, n, width, file)
    for at in range(0, n, piece):
        table.write(first + at, values[at : at + piece])
    return table, values


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("first", [0, 5000])
def test_what_was_written_is_read(tmp_path: Path, spilled: bool, first: int) -> None:
    n, width = 20_000, 7
    table, values = filled(tmp_path / "table" if spilled else None, first, n, width, 513)
    assert (table.file is not None) is spilled
    np.testing.assert_array_equal(table.rows(first, first + n), values)
    for start, stop in ((0, 1), (8190, 8195), (n - 1, n), (3, 19_999), (5, 5)):
        np.testing.assert_array_equal(table.rows(first + start, first + stop), values[start:stop])
    some = np.random.default_rng(1).permutation(n)[:500]
    np.testing.assert_array_equal(table.at(some + first), values[some])
    np.testing.assert_array_equal(table.at(np.array([], np.int64)), values[:0])
    table.close()
    assert not list(tmp_path.iterdir())


@settings(max_examples=50, deadline=None)
@given(first=st.integers(0, 100_000), n=st.integers(0, 50_000))
def test_blocks(first: int, n: int) -> None:
    """They cover every row once, in order, and are cut at multiples of the global row number only."""
    found = list(blocks(first, n))
    covered = [row for start, stop in found for row in (start, stop)]
    assert covered == sorted(covered)
    assert sum(stop - start for start, stop in found) == n
    assert all(start == first or start % BLOCK_ROWS == 0 for start, _ in found)
    assert all(stop == first + n or stop % BLOCK_ROWS == 0 for _, stop in found)


def test_closing_gives_everything_back(tmp_path: Path) -> None:
    store = ProjectionStore(0, 100, tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        store.new(3).write(0, np.zeros((100, 3), np.float32))
    assert len(os.listdir("/proc/self/fd")) == before + 5
    store.close()
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_no_file(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal, numpy as np; from pathlib import Path\n"
        "from skillaxes.pca.projections import Projections\n"
        "table = Projections(0, 1000, 4, Path(sys.argv[1]) / 'table'); table.write(0, np.ones((1000, 4), np.float32))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'engine'}:{root / 'kernels'}"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = Projections(0, 10, 2, tmp_path / "table")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        table.write(0, np.zeros((10, 2), np.float32))
    table.close()


def test_short_writes_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel may take or give less than was asked for."""
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:13], offset))
    monkeypatch.setattr(os, "preadv", lambda file, parts, offset: read(file, [parts[0][:7]], offset))
    table, values = filled(tmp_path / "table", 0, 50, 3, 50)
    np.testing.assert_array_equal(table.rows(0, 50), values)
    table.close()
