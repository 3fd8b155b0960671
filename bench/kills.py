"""``python -m bench.kills``: a job that is killed again and again must end with the bytes of an undisturbed one.

The processes of a job are killed together (SIGKILL) at random, seeded moments, in ``discover`` and in ``label``; each
kill is followed by the same command, until it is done. Then directions, tables, scores and labels are held bit
for bit against an undisturbed run's. What each kill made be done again is told by the times of the checkpoint's files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import provenance, results
from bench.killing import Jobs, Kills, Tally
from bench.results import quantiles
from bench.suites.workspace import Options, Workspace
from bench.synthetic import DTYPES, SPECTRA, Recipe

FILES = ("directions.safetensors", "topk.parquet", "selection.parquet", "scores.zarr", "labels.jsonl")


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
        if not (options.keep and (expected / "labels.jsonl").exists()):
            shutil.rmtree(expected, ignore_errors=True)
            jobs.whole("discover", expected)
        undisturbed = json.loads((expected / "manifest.json").read_text())
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
            manifest = json.loads((folder / "manifest.json").read_text())
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
    if (found / "checkpoint").exists():
        wrong.append("checkpoint is left behind")
    return wrong


def _bytes(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}
    return {"": path.read_bytes()} if path.exists() else {}


def _traces(path: Path, n_rows: int, seed: int) -> Path:
    """A text for every row."""
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
    """Names an undisturbed run by everything that its bytes follow from."""
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
    """Returns the exit code."""
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
