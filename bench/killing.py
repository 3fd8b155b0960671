"""Jobs whose processes are killed: what is asked for, the commands, and what the kills came to."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import launch
from bench.suites.workspace import Workspace

_KILLS_IN_LABEL = 0.2  # share of all kills


@dataclass(frozen=True)
class Kills:
    """What is asked for.

    Attributes
    ----------
    kills : how many, in as many jobs as it takes
    interval : ``--checkpoint-every``, seconds
    patience : most seconds after its start that a ``discover`` process is killed
    processes : that share a ``discover`` job
    seed : of the moments
    words : further words of the ``discover`` command
    """

    kills: int = 100
    interval: float = 2.0
    patience: float = 12.0
    processes: int = 1
    seed: int = 0
    words: tuple[str, ...] = ()


@dataclass
class Tally:
    """What the kills came to.

    Attributes
    ----------
    repeated : seconds of work that each kill threw away, by command
    early : kills that met a process before it had begun to work
    jobs : that were done in the end
    reads, resumptions : of each of them
    differing : files that are not those of the undisturbed run
    """

    repeated: dict[str, list[float]] = field(default_factory=lambda: {"discover": [], "label": []})
    early: int = 0
    jobs: int = 0
    reads: list[float] = field(default_factory=list)
    resumptions: list[int] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def add(self, command: str, lost: float | None) -> None:
        """One more kill; ``lost`` seconds, None where no work had begun."""
        if lost is None:
            self.early += 1
        else:
            self.repeated[command].append(max(lost, 0.0))

    @property
    def kills(self) -> int:
        """All of them."""
        return self.early + sum(map(len, self.repeated.values()))


class Jobs:
    """The two commands, whole or killed."""

    def __init__(self, work: Workspace, kills: Kills, store: Path, traces: Path) -> None:
        self._work, self._kills, self._store, self._traces = work, kills, store, traces
        self._environment = launch.environment(max(1, work.threads // kills.processes))
        self.start_seconds = self._startup()
        self.label_seconds = 0.0

    def whole(self, command: str, folder: Path) -> float:
        """Run a command to its end; its seconds."""
        began = time.monotonic()
        group = self._start(command, folder)
        group.wait(self._work.options.time_limit)
        self._check(command, group)
        return time.monotonic() - began

    def killed(self, command: str, folder: Path, chance: random.Random, tally: Tally) -> None:
        """Run a command until it is done, killing it while kills are left; the last job is let go on in peace."""
        in_label = round(self._kills.kills * _KILLS_IN_LABEL)
        while True:
            left = self._kills.kills - tally.kills
            kill = left > 0 and (command == "discover" or len(tally.repeated["label"]) < in_label)
            patience = self._kills.patience if command == "discover" else self.label_seconds
            group = self._start(command, folder)
            if kill:
                group.wait(chance.random() * patience + (self.start_seconds if command == "discover" else 0))
            else:
                group.wait(self._work.options.time_limit)
            if not group.running:
                self._check(command, group)
                return
            if not kill:
                group.kill()
                raise RuntimeError(f"{command} is not done after {self._work.options.time_limit:.0f} s")
            at = group.kill()
            since = self._safe_since(command, folder, group.started)
            tally.add(command, None if since is None else at - since)

    def _safe_since(self, command: str, folder: Path, started: float) -> float | None:
        """When what a killed process had done was last put on record, or when it began to work; None where it had not
        begun: imports and finding out what to do are no work that is repeated. ``label`` keeps nothing of a labeler
        that costs nothing, so all its time counts, its start too.
        """
        if command == "label":
            return started
        begun = folder / "manifest.json"  # written when the work begins
        if not begun.exists() or begun.stat().st_mtime < started:
            return None
        times = [begun.stat().st_mtime]
        parts = [path.stat().st_mtime for path in (folder / "checkpoint").glob("part-*")]
        if len(parts) == self._kills.processes:
            times.append(min(parts))  # the process that is behind decides
        times += [path.stat().st_mtime for path in (folder / "checkpoint").glob("state.pt")]
        return max(times)

    def _startup(self) -> float:
        """Seconds until a process begins to work."""
        began = time.monotonic()
        code = "import torch, zarr, pyarrow.parquet, skillaxes.run.driver"
        subprocess.run([sys.executable, "-c", code], env=self._environment, check=True)
        return time.monotonic() - began

    def _start(self, command: str, folder: Path) -> Group:
        words = [sys.executable, "-m", "skillaxes", command]
        if command == "label":
            return Group([[*words, str(folder), "--traces", str(self._traces), "--quiet"]], self._environment)
        options = self._work.options
        words += [
            str(self._store), str(folder), "--quiet", "--device", "cpu", "--scratch", str(self._work.folder),
            "--components", str(options.components), "--top", str(options.top),
            "--checkpoint-every", str(self._kills.interval), *self._kills.words,
        ]  # fmt: skip
        size = self._kills.processes
        if size == 1:
            return Group([words], self._environment)
        there = f"127.0.0.1:{_free_port()}"
        each = [
            [*words, "--world-size", str(size), "--process-index", str(rank), "--rendezvous", there]
            for rank in range(size)
        ]
        return Group(each, self._environment)

    def _check(self, command: str, group: Group) -> None:
        if failed := group.failed():
            raise RuntimeError(f"{command} failed: {failed}")


class Group:
    """The processes of one command."""

    def __init__(self, commands: Sequence[Sequence[str]], environment: dict[str, str]) -> None:
        self.started = time.time()
        self._processes: list[subprocess.Popen[bytes]] = []
        for command in commands:
            group = self._processes[0].pid if self._processes else 0
            self._processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    process_group=group,
                )
            )

    @property
    def running(self) -> bool:
        return any(process.poll() is None for process in self._processes)

    def wait(self, seconds: float) -> None:
        """Until all have ended, or time is up."""
        until = time.monotonic() + seconds
        while self.running and time.monotonic() < until:
            time.sleep(0.01)

    def kill(self) -> float:
        """Kill all of them at once; the time of it."""
        at = time.time()
        os.killpg(self._processes[0].pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        return at

    def failed(self) -> str | None:
        """What the first process said that did not end well."""
        said = None
        for process in self._processes:
            assert process.stderr is not None
            text = process.stderr.read().decode(errors="replace")
            process.stderr.close()
            if process.returncode and said is None:
                said = f"exit code {process.returncode}: {text.strip()[-800:]}"
        return said


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
