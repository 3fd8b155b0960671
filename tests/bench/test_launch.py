"""Law: what a process took is measured from outside, and how it ended is told apart: memory, time, refusal, failure."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from bench import launch

MIB = 1 << 20


def python(code: str, **options: object) -> launch.Measured:
    return launch.measure([sys.executable, "-I", "-c", code], **options)  # type: ignore[arg-type]


def test_wall_time_and_start() -> None:
    before = time.monotonic()
    done = python("import time; time.sleep(0.3)")
    assert done.status == launch.DONE
    assert 0.3 <= done.wall_seconds < 5
    assert before <= done.started <= time.monotonic()


def test_peak_memory_is_the_child_s_own() -> None:
    held = bytearray(300 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    small = python("pass")
    assert small.peak_memory_bytes < 100 * MIB  # although its grandparent holds 300 MiB
    large = python(f"held = bytearray({200 * MIB}); held[::4096] = b'x' * len(held[::4096])")
    assert 200 * MIB <= large.peak_memory_bytes < 300 * MIB
    assert len(held) == 300 * MIB


def test_memory_of_children_counts() -> None:
    hog = f"x = bytearray({150 * MIB}); x[::4096] = b'x' * len(x[::4096]); import time; time.sleep(0.3)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hog!r}])"
    assert python(code).peak_memory_bytes >= 150 * MIB


def test_bytes_read(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(bytes(20 * MIB))
    little = python("pass").bytes_read
    much = python(f"open({str(file)!r}, 'rb', buffering=0).read()").bytes_read
    assert much - little >= 20 * MIB


def test_at_the_memory_limit_it_is_ended() -> None:
    code = f"import time\nheld = []\nwhile True: held.append(bytearray({4 * MIB})); time.sleep(0.005)"
    ended = python(code, memory_limit=150 * MIB)
    assert ended.status == launch.OUT_OF_MEMORY
    assert 150 * MIB <= ended.peak_memory_bytes < 600 * MIB


def test_an_allocation_that_fails_is_out_of_memory() -> None:
    assert python("bytearray(1 << 60)").status == launch.OUT_OF_MEMORY


def test_at_the_time_limit_it_is_ended() -> None:
    ended = python("import time; time.sleep(60)", time_limit=0.3)
    assert ended.status == launch.TIME_LIMIT
    assert ended.wall_seconds < 10


@pytest.mark.parametrize(
    ("code", "status"),
    [(0, launch.DONE), (1, launch.FAILED), (2, launch.REFUSED), (77, launch.NOT_INSTALLED)],
)
def test_exit_codes(code: int, status: str) -> None:
    ended = python(f"import sys; print('why', file=sys.stderr); sys.exit({code})")
    assert (ended.status, ended.exit_code) == (status, code)
    assert ended.message.strip() == "why"


def test_much_standard_error_does_not_block() -> None:
    assert python("import sys; sys.stderr.write('x\\n' * 200_000)").status == launch.DONE


def test_threads_and_paths_of_the_environment() -> None:
    environment = launch.environment(3)
    assert environment["OMP_NUM_THREADS"] == "3"
    done = launch.measure([sys.executable, "-c", "import bench, skillaxes, skillaxes_kernels"], environment=environment)
    assert done.status == launch.DONE, done.message
