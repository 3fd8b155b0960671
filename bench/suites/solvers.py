"""``solvers``: error against reads for every solver, on easy and hard spectra: the figures behind the defaults."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import launch, provenance
from bench.judge import Answer, judge
from bench.results import Book
from bench.suites.workspace import Options, Workspace, remove, summary_of
from bench.synthetic import Recipe
from skillaxes.pca import solvers

SOLVERS = tuple(solvers.SOLVERS)
SPECTRA = ("power", "flat", "planted", "real")
READS = (2, 3, 4, 5)
_ITERATIVE = ("krylov",)  # solvers that read the store as often as --max-reads allows
_LEAST_TOLERANCE = "1e-12"  # so that --max-reads alone says when to stop


def real_activations() -> Path | None:
    """The file of real activations that tests and benchmarks share; None where it is missing."""
    shared = os.environ.get("SKILLAXES_SHARED_DATA")
    folder = Path(shared) if shared else provenance.ROOT.parent / "shared" / "data"
    file = folder / "smollm2-reasoning" / "activations.npy"
    return file if file.exists() else None


def run(
    options: Options,
    recipe: Recipe,
    spectra: Sequence[str] = SPECTRA,
    names: Sequence[str] = SOLVERS,
    reads: Sequence[int] = READS,
) -> list[dict[str, Any]]:
    """Measure errors; one line for every spectrum, solver and number of reads.

    A solver whose number of reads is fixed is measured once. Where there is no shared data, ``real`` is the small real
    store of this repository.
    """
    lines = []
    with Workspace(options) as work:
        book = work.book("solvers")
        for spectrum in spectra:
            case: dict[str, Any] = {"spectrum": spectrum, "components": options.components, "top": options.top}
            if spectrum == "real":
                source = real_activations()
                if source is None:
                    store = work.folder / "sample.zarr"
                    shutil.copytree(
                        provenance.ROOT / "bench" / "sample" / "activations.zarr", store, dirs_exist_ok=True
                    )
                    case["source"] = "bench/sample"
                else:
                    store = work.real_store(source)
                    case["source"] = "smollm2-reasoning"
            else:
                asked = replace(recipe, spectrum=spectrum)
                store = work.store(asked)
                case |= asked.as_dict()
            lines += _of_one_matrix(work, book, case, store, names, reads)
    return lines


def _of_one_matrix(
    work: Workspace, book: Book, case: dict[str, Any], store: Path, names: Sequence[str], reads: Sequence[int]
) -> list[dict[str, Any]]:
    options, reference = work.options, work.exact(store)
    found: list[tuple[dict[str, Any], dict[str, Any], Path | None]] = []
    for solver in names:
        for count in reads if solver in _ITERATIVE else reads[:1]:
            stop = ("--max-reads", str(count), "--tolerance", _LEAST_TOLERANCE)
            ran = work.discover(store, "--solver", solver, *stop)
            values: dict[str, Any] = {
                "status": ran.measured.status,
                "wall_seconds": ran.measured.wall_seconds,
                "peak_memory_bytes": ran.measured.peak_memory_bytes,
            }
            kept = None
            if ran.measured.status == launch.DONE:
                answer = Answer.from_run_folder(ran.folder)
                kept = work.folder / f"found-{len(found)}.npz"
                answer.save(kept)
                values |= judge(reference, answer) | summary_of(ran.manifest)
                options.say(f"{store.name}, {solver}, {count} reads: error {values['error']:.1e}")
            else:
                values["message"] = ran.measured.message.strip()[-400:]
                options.say(f"{store.name}, {solver}: {ran.measured.status}: {values['message']}")
            found.append(({**case, "solver": solver, "max_reads": count}, values, kept))
            shutil.rmtree(ran.folder, ignore_errors=True)
    answers = [kept for _, _, kept in found if kept is not None]
    shares = dict(zip(answers, _captured(work, store, answers), strict=True))
    remove(answers)
    return [
        book.append(here["solver"], here, values if kept is None else {**values, "captured": shares[kept]})
        for here, values, kept in found
    ]


def _captured(work: Workspace, store: Path, answers: Sequence[Path]) -> list[float]:
    """Variance in the span of each answer over that in the exact one, computed from the store."""
    if not answers:
        return []
    out = work.folder / "captured.json"
    work.work(
        "captured", str(store), "--out", str(out), "--answers", *map(str, answers),
        "--components", str(work.options.components), "--top", str(work.options.top),
    )  # fmt: skip
    return [float(share) for share in json.loads(out.read_text())]
