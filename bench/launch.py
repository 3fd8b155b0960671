"""Run one process and measure it from outside: wall time, peak resident memory, bytes read, and how it ended.

A small launcher process stands between the benchmark and the measured one. Linux counts the memory of the process that
forked into ``ru_maxrss``, so a child of a large parent would seem large; the launcher holds some 10 MB. It also watches
the resident memory of all processes that it started and ends them at the limit, before the machine runs short: that is
reported as ``out of memory``, as it would have been on a machine of that size.

Python's standard library only. Linux only (/proc).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DONE = "done"
OUT_OF_MEMORY = "out of memory"
TIME_LIMIT = "time limit"
NOT_INSTALLED = "not installed"
REFUSED = "refused"
FAILED = "failed"

# Exit codes that measured programs of ours use: a peer whose library is missing, an input or option refused.
EXIT_NOT_INSTALLED = 77
EXIT_REFUSED = 2

# Messages of libraries whose allocation failed.
_NO_MEMORY = ("MemoryError", "can't allocate memory", "Unable to allocate", "bad_alloc", "Cannot allocate memory")


@dataclass(frozen=True)
class Measured:
    """The measurements of one process.

    Attributes
    ----------
    status : ``done``, ``out of memory``, ``time limit``, ``not installed``, ``refused`` or ``failed``
    started : CLOCK_MONOTONIC at its start, in seconds; comparable with ``time.monotonic()`` of any process here
    wall_seconds : from its start to its end
    cpu_seconds : user and system time, children included
    peak_memory_bytes : most resident memory of the process (``ru_maxrss``), or of all processes together where the
        watch saw more
    bytes_read : bytes that went through read calls, from a disk or from the page cache (``rchar``), without those of
        mapped files
    exit_code : of the process; negative for a signal
    message : the end of its standard error
    """

    status: str
    started: float
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    bytes_read: int
    exit_code: int
    message: str


def measure(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    memory_limit: int | None = None,
    time_limit: float | None = None,
    folder: Path | None = None,
) -> Measured:
    """Run ``command`` and measure it.

    Parameters
    ----------
    environment : the process's environment; None for a copy of ours
    memory_limit : resident bytes at which it is ended
    time_limit : seconds after which it is ended
    folder : working directory

    Raises
    ------
    RuntimeError : the launcher failed
    """
    job = {"command": list(command), "memory_limit": memory_limit, "time_limit": time_limit}
    launcher = subprocess.run(
        [sys.executable, "-I", "-S", __file__],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=None if environment is None else dict(environment),
    )
    if launcher.returncode != 0:
        raise RuntimeError(f"the launcher failed: {launcher.stderr.strip()}")
    return Measured(**json.loads(launcher.stdout))


def environment(threads: int, **extra: str) -> dict[str, str]:
    """An environment for a measured process: the checkout is importable, every library has the same threads."""
    root = Path(__file__).resolve().parent.parent
    paths = [str(root), str(root / "engine"), str(root / "kernels"), os.environ.get("PYTHONPATH", "")]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")
    limits = dict.fromkeys(names, str(threads))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **limits, **extra}


class _Watch(threading.Thread):
    """Thread that follows the resident memory of a process group and ends the group at a limit."""

    def __init__(self, group: int, memory_limit: int | None, time_limit: float | None) -> None:
        super().__init__(daemon=True)
        self.group = group
        self.memory_limit = memory_limit
        self.deadline = None if time_limit is None else time.monotonic() + time_limit
        self.peak = 0
        self.ended_by: str | None = None
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, _resident(self.group))
            if self.memory_limit is not None and self.peak > self.memory_limit:
                self.ended_by = OUT_OF_MEMORY
            elif self.deadline is not None and time.monotonic() > self.deadline:
                self.ended_by = TIME_LIMIT
            if self.ended_by is not None:
                os.killpg(self.group, signal.SIGKILL)
                return

    def stop(self) -> None:
        self._over.set()
        self.join()


def _resident(group: int) -> int:
    """Resident bytes of a process and its descendants."""
    total = 0
    waiting = [group]
    while waiting:
        process = waiting.pop()
        try:
            pages = Path(f"/proc/{process}/statm").read_text().split()[1]
            for thread in os.listdir(f"/proc/{process}/task"):
                waiting += map(int, Path(f"/proc/{process}/task/{thread}/children").read_text().split())
        except (OSError, IndexError):
            continue
        total += int(pages) * os.sysconf("SC_PAGE_SIZE")
    return total


def _run(job: dict[str, Any]) -> Measured:
    with open(os.devnull, "wb") as nothing:
        started = time.monotonic()
        process = subprocess.Popen(
            job["command"], stdin=subprocess.DEVNULL, stdout=nothing, stderr=subprocess.PIPE, start_new_session=True
        )
    _kill_first(process.pid)
    watch = _Watch(process.pid, job["memory_limit"], job["time_limit"])
    watch.start()
    errors = _Tail(process.stderr)
    errors.start()
    try:
        # The process stays a zombie until wait4, so that its counts in /proc can still be read.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    wall = time.monotonic() - started
    watch.stop()
    read = _bytes_read(process.pid)
    _, code, usage = os.wait4(process.pid, 0)
    exit_code = os.waitstatus_to_exitcode(code)
    process.returncode = exit_code
    errors.join(timeout=5)
    return Measured(
        status=_status(exit_code, watch.ended_by, errors.text),
        started=started,
        wall_seconds=wall,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_memory_bytes=max(usage.ru_maxrss * 1024, watch.peak),
        bytes_read=read,
        exit_code=exit_code,
        message=errors.text[-2000:],
    )


class _Tail(threading.Thread):
    """Thread that reads a pipe to its end and keeps the last part."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.text = ""

    def run(self) -> None:
        for line in self._pipe:
            self.text = (self.text + line.decode(errors="replace"))[-20000:]


def _kill_first(process: int) -> None:
    """Have the kernel kill this process first if the machine runs out of memory all the same."""
    try:
        Path(f"/proc/{process}/oom_score_adj").write_text("1000")
    except OSError:
        return


def _bytes_read(process: int) -> int:
    try:
        for line in Path(f"/proc/{process}/io").read_text().splitlines():
            if line.startswith("rchar:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _status(exit_code: int, ended_by: str | None, errors: str) -> str:
    if exit_code == 0:
        return DONE
    if ended_by is not None:
        return ended_by
    if exit_code == EXIT_NOT_INSTALLED:
        return NOT_INSTALLED
    if exit_code == -signal.SIGKILL or any(sign in errors for sign in _NO_MEMORY):
        return OUT_OF_MEMORY
    return REFUSED if exit_code == EXIT_REFUSED else FAILED


if __name__ == "__main__":
    print(json.dumps(asdict(_run(json.load(sys.stdin)))))
