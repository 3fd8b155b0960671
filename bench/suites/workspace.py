"""The workspace of a suite: a temp folder for the stores, our command as a measured process, a place for results."""

from __future__ import annotations

import compileall
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import launch, provenance
from bench.judge import Answer, judge
from bench.panels import warm
from bench.reference import Reference, path_of
from bench.results import DEFAULT, Book
from bench.synthetic import Recipe
from skillaxes.run_folder.manifest import read_manifest

_SPARE = 512 << 20  # left to the machine when a peer may take all the rest


@dataclass(frozen=True)
class Options:
    """The options of all suites.

    Attributes
    ----------
    command : the command line, for the results
    results : file that lines are appended to
    threads : threads of every measured process; 0 for all cores
    temp : folder for the temp folder; None for the system's
    keep : leave stores behind, and use those that are there already
    repeat : runs of each measured process; None for its own number
    components, top : of the job
    memory_limit : resident bytes at which a process is ended and called out of memory; None for what is available
    time_limit : seconds after which one is ended
    quiet : no lines of progress
    quick : for tests: tiny arrays where a suite makes its own
    """

    command: str = "python -m bench"
    results: Path = DEFAULT
    threads: int = 0
    temp: Path | None = None
    keep: bool = False
    repeat: int | None = None
    components: int = 10
    top: int = 10
    memory_limit: int | None = None
    time_limit: float = 3600.0
    quiet: bool = False
    quick: bool = False

    def say(self, text: str) -> None:
        """Write one line of progress to standard error, unless quiet."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Ran:
    """One run of our command.

    Attributes
    ----------
    measured : the process, measured from outside
    manifest : of the run folder; empty unless the job finished
    folder : the run folder
    """

    measured: launch.Measured
    manifest: Mapping[str, Any]
    folder: Path


class Workspace:
    """Stores and run folders of one suite; a context manager that removes the folder at the end."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.threads = options.threads or provenance.cores()
        self._made = 0

    def __enter__(self) -> Self:
        if self.options.keep and self.options.temp is not None:
            self.options.temp.mkdir(parents=True, exist_ok=True)
            self.folder = self.options.temp.resolve()
        else:
            self.folder = Path(tempfile.mkdtemp(prefix="skillaxes-bench-", dir=self.options.temp)).resolve()
        # As pip does with packages that it installs: else our modules alone would be compiled in each process where
        # PYTHONDONTWRITEBYTECODE is set, or in the first one.
        for package in ("engine", "kernels", "bench"):
            compileall.compile_dir(provenance.ROOT / package, quiet=2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.options.keep:
            self.options.say(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def book(self, suite: str) -> Book:
        """The book for a suite's results; it hides the names of this machine's folders."""
        hidden = {str(self.folder): "$TEMP", str(provenance.ROOT): ".", sys.executable: "python"}
        return Book(self.options.results, suite, self.options.command, self.threads, hidden)

    @property
    def memory_limit(self) -> int:
        """Resident bytes that a measured process may take."""
        available = provenance.memory()["MemAvailable"] - _SPARE
        return available if self.options.memory_limit is None else min(available, self.options.memory_limit)

    def work(self, *words: str) -> None:
        """Run a piece of our own heavy work, see :mod:`bench.work`.

        Raises
        ------
        RuntimeError : it failed
        """
        done = launch.measure(
            [sys.executable, "-m", "bench.work", *words, "--threads", str(self.threads)],
            environment=launch.environment(self.threads),
        )
        if done.status != launch.DONE:
            raise RuntimeError(f"bench.work {words[0]}: {done.status}: {done.message.strip()[-800:]}")

    def store(self, recipe: Recipe) -> Path:
        """The path of a recipe's store, made unless it is there."""
        path = self.folder / f"{recipe.name}.zarr"
        if not path.exists():
            self.options.say(
                f"making {recipe.rows:,} x {recipe.columns:,} {recipe.dtype}, {recipe.nbytes / 1e9:.2f} GB"
            )
            # Workers of one thread each: the bytes do not depend on the number of cores.
            done = launch.measure(
                [sys.executable, "-m", "bench.work", "store", str(path), "--recipe", json.dumps(recipe.as_dict()),
                 "--threads", str(self.threads)],
                environment=launch.environment(1),
            )  # fmt: skip
            if done.status != launch.DONE:
                shutil.rmtree(path, ignore_errors=True)
                raise RuntimeError(f"making the store: {done.status}: {done.message.strip()[-800:]}")
        return path

    def real_store(self, source: Path) -> Path:
        """A store of the rows of a .npy file."""
        path = self.folder / "real.zarr"
        if not path.exists():
            self.work("rows", str(path), "--source", str(source))
        return path

    def exact(self, store: Path) -> Reference:
        """The exact answer of a store, computed unless it is there."""
        kept = path_of(store, self.options.components, self.options.top)
        if not kept.exists():
            self.options.say(f"exact directions of {store.name}")
            self.work("exact", str(store), "--components", str(self.options.components), "--top", str(self.options.top))
        return Reference.load(kept)

    def discover(self, store: Path, *words: str, memory: str | None = None) -> Ran:
        """Run ``skillaxes discover`` on a store, in a process of its own, with the page cache warm."""
        warm(store)
        self._made += 1
        folder = self.folder / f"run-{self._made}"
        if folder.exists():
            shutil.rmtree(folder)
        command = [
            sys.executable, "-m", "skillaxes", "discover", str(store), str(folder), "--quiet",
            "--components", str(self.options.components), "--top", str(self.options.top),
            "--device", "cpu", "--scratch", str(self.folder), *words,
        ]  # fmt: skip
        if memory is not None:
            command += ["--memory", memory]
        measured = launch.measure(
            command,
            environment=launch.environment(self.threads),
            memory_limit=self.memory_limit,
            time_limit=self.options.time_limit,
        )
        return Ran(measured, read_manifest(folder) if measured.status == launch.DONE else {}, folder)

    def judged(self, reference: Reference, ran: Ran) -> dict[str, Any]:
        """The errors of a run's answer against the exact one, see :func:`bench.judge.judge`."""
        return judge(reference, Answer.from_run_folder(ran.folder))


def remove(paths: Sequence[Path]) -> None:
    """Remove files and folders, where they are there."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def summary_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Time, memory, bytes and reads of a job from its manifest, for a results line."""
    return {
        "engine_seconds": manifest.get("seconds"),
        "engine_peak_memory_bytes": manifest.get("peak_memory_bytes"),
        "engine_bytes_read": manifest.get("bytes_read"),
        "reads": manifest.get("reads"),
        "solver": manifest.get("solver"),
        "stages": [
            {name: stage.get(name) for name in ("name", "seconds", "reads", "bytes", "peak_memory_bytes")}
            for stage in manifest.get("stages", [])
        ],
    }
