"""Start several processes of one job on this machine by flags, as a user without torchrun does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a process; ``seconds`` from the start of the wait to its end."""

    code: int
    out: str
    err: str
    seconds: float


def free_port() -> int:
    """A port that no process listens at."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


def environment(**more: str) -> dict[str, str]:
    """This process's environment without the variables of launchers, with this checkout's packages and one thread."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHERS and not name.startswith(("SLURM_", "TORCHELASTIC_"))
    }
    rooms = os.pathsep.join([str(ROOT / "engine"), str(ROOT / "kernels")])
    return {**kept, "PYTHONPATH": rooms, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


class Group:
    """``size`` processes of ``skillaxes`` with the same arguments."""

    def __init__(
        self,
        size: int,
        arguments: Sequence[object],
        *,
        program: Sequence[str] = ("-m", "skillaxes"),
        env: Mapping[str, str] | None = None,
    ) -> None:
        place = f"127.0.0.1:{free_port()}"
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, *program, *map(str, arguments)),
                    *("--process-index", str(index), "--world-size", str(size), "--rendezvous", place),
                ],
                env=environment(**(env or {})),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(size)
        ]

    def wait(self, limit: float = 120) -> list[Ended]:
        """Wait for all processes, at most ``limit`` seconds in all."""
        began = time.monotonic()
        ended = []
        try:
            for process in self.processes:
                out, err = process.communicate(timeout=max(0.1, limit - (time.monotonic() - began)))
                ended.append(Ended(process.returncode, out, err, time.monotonic() - began))
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        return ended


def run(size: int, *arguments: object, env: Mapping[str, str] | None = None, limit: float = 120) -> list[Ended]:
    """Run ``size`` processes to their end."""
    return Group(size, arguments, env=env).wait(limit)


def run_well(size: int, *arguments: object, env: Mapping[str, str] | None = None) -> list[Ended]:
    """Run ``size`` processes to their end and assert that all end with exit code 0."""
    ended = run(size, *arguments, env=env)
    assert [one.code for one in ended] == [0] * size, "\n".join(one.err for one in ended)
    return ended
