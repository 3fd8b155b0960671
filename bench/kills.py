"""``python -m bench.kills``: a job that is killed again and again must end with the bytes of an undisturbed one.

The processes of a job are killed together (SIGKILL) at random, seeded moments, in ``discover`` and in ``label``; each
kill is followed by the same command, until it is done. Then directions, tables, scores and labels are held bit
for bit against an undisturbed run's. The times of the checkpoint's files show how much work each kill made be repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import launch, provenance, results
from bench.results import quantiles
from bench.suites.workspace import Options, Workspace
from bench.synthetic import DTYPES, SPECTRA, Recipe
from skillaxes.run_folder.manifest import read_manifest
from skillaxes.run_folder.schema import CHECKPOINT, DIRECTIONS, LABELS, MANIFEST, SCORES, SELECTION, TOPK

FILES = (DIRECTIONS, TOPK, SELECTION, SCORES, LABELS)
_KILLS_IN_LABEL = 0.2  # share of all kills


@dataclass(frozen=True)
class Kills:
    """The options of the benchmark.

    Attributes
    ----------
    kills : number of kills, in as many jobs as it takes
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
    """The effects of the kills.

    Attributes
    ----------
    repeated : seconds of work that each kill threw away, by command
    early : kills of a process that had not begun to work
    jobs : jobs that are done
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
        """Count one kill; ``lost`` are seconds, None where no work had begun."""
        if lost is None:
            self.early += 1
        else:
            self.repeated[command].append(max(lost, 0.0))

    @property
    def kills(self) -> int:
        """Kills of all commands."""
        return self.early + sum(map(len, self.repeated.values()))


class Jobs:
    """The commands ``discover`` and ``label``, run whole or killed."""

    def __init__(self, work: Workspace, kills: Kills, store: Path, traces: Path) -> None:
        self._work, self._kills, self._store, self._traces = work, kills, store, traces
        self._environment = launch.environment(max(1, work.threads // kills.processes))
        self.start_seconds = self._startup()
        self.label_seconds = 0.0

    def whole(self, command: str, folder: Path) -> float:
        """Run a command to its end; returns its seconds."""
        began = time.monotonic()
        group = self._start(command, folder)
        group.wait(self._work.options.time_limit)
        self._check(command, group)
        return time.monotonic() - began

    def killed(self, command: str, folder: Path, chance: random.Random, tally: Tally) -> None:
        """Run a command until it is done and kill it while kills are left; the last job runs undisturbed."""
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
        """The time of a killed process's last checkpoint, or of the beginning of its work; None where it had not begun.

        Imports and planning are no work that is repeated. ``label`` keeps nothing of a labeler that costs nothing, so
        all its time counts, its start too.
        """
        if command == "label":
            return started
        begun = folder / MANIFEST  # written when the work begins
        if not begun.exists() or begun.stat().st_mtime < started:
            return None
        times = [begun.stat().st_mtime]
        parts = [path.stat().st_mtime for path in (folder / CHECKPOINT).glob("part-*")]
        if len(parts) == self._kills.processes:
            times.append(min(parts))  # of the process that is behind
        times += [path.stat().st_mtime for path in (folder / CHECKPOINT).glob("state.pt")]
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
        """Whether any process runs."""
        return any(process.poll() is None for process in self._processes)

    def wait(self, seconds: float) -> None:
        """Wait until all have ended, or time is up."""
        until = time.monotonic() + seconds
        while self.running and time.monotonic() < until:
            time.sleep(0.01)

    def kill(self) -> float:
        """Kill all processes at once; returns the time."""
        at = time.time()
        os.killpg(self._processes[0].pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        return at

    def failed(self) -> str | None:
        """The exit code and the messages of the first process that failed; None where all went well."""
        failure = None
        for process in self._processes:
            assert process.stderr is not None
            text = process.stderr.read().decode(errors="replace")
            process.stderr.close()
            if process.returncode and failure is None:
                failure = f"exit code {process.returncode}: {text.strip()[-800:]}"
        return failure


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run(options: Options, recipe: Recipe, kills: Kills) -> list[dict[str, Any]]:
    """Kill jobs on a matrix; one line of results.

    Raises
    ------
    RuntimeError : a job failed, or differs from the undisturbed one
    """
    with Workspace(options) as work:
        store = work.store(recipe)
        traces = _traces(work.folder / "traces.jsonl", recipe.rows, recipe.seed)
        jobs = Jobs(work, kills, store, traces)
        expected = work.folder / f"undisturbed-{_digest(recipe, options, kills)}"
        if not (options.keep and (expected / LABELS).exists()):
            shutil.rmtree(expected, ignore_errors=True)
            jobs.whole("discover", expected)
        undisturbed = read_manifest(expected)
        jobs.label_seconds = jobs.whole("label", expected)
        options.say(
            f"undisturbed: discover {undisturbed['seconds']:.1f} s, label {jobs.label_seconds:.1f} s with start"
        )
        chance, tally = random.Random(kills.seed), Tally()
        while tally.kills < kills.kills:
            folder = work.folder / "killed"
            shutil.rmtree(folder, ignore_errors=True)
            for command in ("discover", "label"):
                jobs.killed(command, folder, chance, tally)
            manifest = read_manifest(folder)
            tally.jobs += 1
            tally.reads.append(manifest["reads"])
            tally.resumptions.append(manifest.get("resumptions", 0))
            tally.differing += [f"job {tally.jobs}: {name}" for name in differing(expected, folder)]
            options.say(f"job {tally.jobs}: {tally.kills} kills, {len(tally.differing)} files differ")
        case = {**recipe.as_dict(), "bytes": recipe.nbytes, **_case(kills)}
        values = {
            "discover_seconds": undisturbed["seconds"],
            "label_seconds": jobs.label_seconds,
            "start_seconds": jobs.start_seconds,
            "kills": tally.kills,
            "kills_before_work": tally.early,
            "jobs": tally.jobs,
            "resumptions": tally.resumptions,
            "reads": tally.reads,
            "undisturbed_reads": undisturbed["reads"],
            "repeated_seconds": {name: quantiles(found) for name, found in tally.repeated.items() if found},
            "above_two_intervals": sum(
                seconds > 2 * kills.interval for found in tally.repeated.values() for seconds in found
            ),
            "differing": tally.differing,
        }
        line = work.book("kills").append("kills", case, values)
    if tally.differing:
        raise RuntimeError(f"killed jobs differ from the undisturbed one: {', '.join(tally.differing)}")
    return [line]


def differing(expected: Path, found: Path) -> list[str]:
    """The files of two run folders that are not the same, bit for bit."""
    wrong = []
    for name in FILES:
        one, other = _bytes(expected / name), _bytes(found / name)
        wrong += [
            str(Path(name, path)) for path in sorted(one.keys() | other.keys()) if one.get(path) != other.get(path)
        ]
    if (found / CHECKPOINT).exists():
        wrong.append("checkpoint is left behind")
    return wrong


def _bytes(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}
    return {"": path.read_bytes()} if path.exists() else {}


def _traces(path: Path, n_rows: int, seed: int) -> Path:
    """A file with a text for every row, made unless it is there."""
    if path.exists():
        return path
    chance = random.Random(seed)
    words = [f"{a}{b}{c}" for a in ("re", "con", "sub") for b in ("mi", "la", "tor", "pe") for c in ("ne", "ding", "s")]
    with path.open("w", encoding="utf-8") as file:
        for row in range(n_rows):
            text = " ".join(chance.choices(words, k=chance.randrange(20, 60)))
            file.write(json.dumps({"id": row, "input": f"Problem {row}", "output": text}) + "\n")
    return path


def _digest(recipe: Recipe, options: Options, kills: Kills) -> str:
    """A name for an undisturbed run: the hash of everything that its bytes follow from."""
    shape = [recipe.as_dict(), options.components, options.top, options.threads, kills.processes, kills.words]
    code = [provenance.commit(), provenance.versions()]
    return hashlib.sha256(json.dumps([shape, code], sort_keys=True).encode()).hexdigest()[:12]


def _case(kills: Kills) -> dict[str, Any]:
    return {
        "interval": kills.interval,
        "patience": kills.patience,
        "processes": kills.processes,
        "kill_seed": kills.seed,
        "words": list(kills.words),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its values; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given, further = _parser().parse_known_args(words)
    options = Options(
        command=provenance.command(
            ["python", "-m", "bench.kills", *words], {} if given.temp is None else {str(given.temp): "$TEMP"}
        ),
        results=given.results,
        threads=given.threads,
        temp=given.temp,
        keep=given.keep,
        time_limit=given.time_limit,
    )
    recipe = Recipe(given.rows, given.columns, dtype=given.dtype, spectrum=given.spectrum, exponent=given.exponent)
    kills = Kills(given.kills, given.interval, given.patience, given.processes, given.seed, tuple(further))
    for line in run(options, recipe, kills):
        print(json.dumps(line["values"], indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    default = Kills()
    parser = argparse.ArgumentParser(
        prog="python -m bench.kills", description=__doc__, epilog="Further words go to skillaxes discover."
    )
    parser.add_argument("--kills", type=int, default=default.kills)
    parser.add_argument("--interval", type=float, default=default.interval, help="--checkpoint-every, seconds")
    parser.add_argument("--patience", type=float, default=default.patience, help="most seconds a process lives")
    parser.add_argument("--processes", type=int, default=default.processes, help="that share a discover job")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the moments of the kills")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--columns", type=int, default=16_384)
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--spectrum", choices=SPECTRA, default="flat", help="flat: as many reads as are allowed")
    parser.add_argument("--exponent", type=float, default=1.25)
    parser.add_argument("--threads", type=int, default=0, help="of all processes together; 0 for all cores")
    parser.add_argument("--time-limit", type=float, default=900)
    parser.add_argument("--temp", type=Path)
    parser.add_argument("--keep", action="store_true", help="with --temp: leave the store there, and use what is there")
    parser.add_argument("--results", type=Path, default=results.DEFAULT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
