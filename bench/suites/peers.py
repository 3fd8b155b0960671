"""``peers``: one job, from files to the top-k rows of both sides, done by other programs and by ours."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import launch
from bench.judge import Answer, judge
from bench.panels import warm
from bench.peers import PEERS, Peer
from bench.peers.program import ANSWER, CLOCK, stages
from bench.reference import Reference
from bench.results import Book, quantiles
from bench.suites.workspace import Options, Workspace, remove, summary_of
from bench.synthetic import Recipe
from skillaxes.run_folder.manifest import read_manifest

NAMES = tuple(peer.name for peer in PEERS)
OURS = "skillaxes_command"
OURS_IN_PYTHON = "skillaxes_python"


def run(
    options: Options, recipe: Recipe, names: Sequence[str] = NAMES, memory: str | None = None
) -> list[dict[str, Any]]:
    """Measure peers on one matrix; one line a peer and one of ratios.

    Parameters
    ----------
    names : which peers, by their names in :data:`bench.peers.PEERS`
    memory : ``--memory`` for ours
    """
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise ValueError(f"peer {unknown[0]!r}: is not one of {', '.join(NAMES)}")
    case = {**recipe.as_dict(), "bytes": recipe.nbytes, "components": options.components, "top": options.top}
    if memory is not None:
        case["memory"] = memory
    lines = []
    with Workspace(options) as work:
        book = work.book("peers")
        store = work.store(recipe)
        reference = work.exact(store)
        case |= {"exact_method": reference.method, "exact_residual": float(reference.residuals.max())}
        # Ours last: the slow ones leave their input files behind otherwise. Peers of one source share its file.
        for source in ("pickle", "npy", "store"):
            group = [peer for peer in PEERS if peer.name in names and peer.source == source]
            if not group:
                continue
            path = _source(work, store, source)
            for peer in group:
                options.say(f"{peer.name} ...")
                values = _measure(work, peer, path, reference, memory)
                options.say(f"{peer.name}: {_brief(values)}")
                lines.append(book.append(peer.name, case, values))
            if source != "store":
                remove([path])
        lines += _ratios(book, case, lines)
    return lines


def _source(work: Workspace, store: Path, source: str) -> Path:
    if source == "store":
        return store
    path = store.with_suffix(".pkl" if source == "pickle" else ".npy")
    work.work(source, str(store), "--out", str(path))
    return path


def _measure(work: Workspace, peer: Peer, source: Path, reference: Reference, memory: str | None) -> dict[str, Any]:
    repeats = work.options.repeat or peer.repeats
    walls, after, imports, peaks, reads, cpus = [], [], [], [], [], []
    marks: dict[str, list[float]] = {}
    verdicts: list[dict[str, Any]] = []
    ours: dict[str, Any] = {}
    for _ in range(repeats):
        mapped = 0  # bytes that were mapped instead of read do not show in the process's own count
        if peer.name == OURS:
            ran = work.discover(source, memory=memory)
            measured = ran.measured
            if measured.status == launch.DONE:
                mapped = ran.manifest["bytes_read"]
                verdicts.append(work.judged(reference, ran))
                ours = summary_of(ran.manifest)
            shutil.rmtree(ran.folder, ignore_errors=True)
        else:
            out = work.folder / "answer"
            shutil.rmtree(out, ignore_errors=True)
            warm(source)
            measured = _launch(work, peer, source, out, memory)
            if measured.status == launch.DONE:
                seconds = stages(json.loads((out / CLOCK).read_text()), measured.started)
                imports.append(seconds.pop("imports"))
                after.append(sum(seconds.values()))
                for name, taken in seconds.items():
                    marks.setdefault(name, []).append(taken)
                verdicts.append(judge(reference, Answer.load(out / ANSWER)))
                if (out / "run").exists():
                    mapped = read_manifest(out / "run")["bytes_read"]
            shutil.rmtree(out, ignore_errors=True)
        walls.append(measured.wall_seconds)
        peaks.append(measured.peak_memory_bytes)
        reads.append(max(measured.bytes_read, mapped))
        cpus.append(measured.cpu_seconds)
        if measured.status != launch.DONE:
            # How far it came, and with how much memory, is worth keeping.
            message = measured.message.strip().splitlines()[-1:] or [""]
            return {
                "status": measured.status,
                "message": message[0],
                "wall_seconds": quantiles(walls[-1:]),
                "peak_memory_bytes": peaks[-1],
                "bytes_read": reads[-1],
            }
    worst = max(verdicts, key=lambda verdict: verdict["error"])
    values = {
        "status": launch.DONE,
        "wall_seconds": quantiles(walls),
        "cpu_seconds": quantiles(cpus),
        "peak_memory_bytes": max(peaks),
        "bytes_read": int(statistics.median(reads)),
        **worst,
        "overlap": min(verdict["overlap"] for verdict in verdicts),
        "exact_lists": min(verdict["exact_lists"] for verdict in verdicts),
        **ours,
    }
    if after:
        values |= {
            "import_seconds": quantiles(imports),
            "after_imports_seconds": quantiles(after),
            "stage_seconds": {name: statistics.median(taken) for name, taken in marks.items()},
        }
    return values


def _launch(work: Workspace, peer: Peer, source: Path, out: Path, memory: str | None) -> launch.Measured:
    options = work.options
    command = [
        sys.executable, "-m", f"bench.peers.{peer.name}", str(source), str(out), "--components",
        str(options.components), "--top", str(options.top), "--threads", str(work.threads),
    ]  # fmt: skip
    if memory is not None and peer.name == OURS_IN_PYTHON:
        command += ["--option", f"memory={memory}"]
    return launch.measure(
        command,
        environment=launch.environment(work.threads),
        memory_limit=work.memory_limit,
        time_limit=options.time_limit,
    )


def _ratios(book: Book, case: dict[str, Any], lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our time and memory against those of each peer that finished."""
    done = {line["measurement"]: line["values"] for line in lines if line["values"]["status"] == launch.DONE}
    if OURS not in done:
        return []
    ours, inside = done[OURS], done.get(OURS_IN_PYTHON)
    ratios: dict[str, Any] = {}
    for name, values in done.items():
        if name in (OURS, OURS_IN_PYTHON):
            continue
        ratios[name] = {
            "whole_process": values["wall_seconds"]["p50"] / ours["wall_seconds"]["p50"],
            "memory_share": ours["peak_memory_bytes"] / values["peak_memory_bytes"],
        }
        if inside is not None:
            ratios[name]["after_imports"] = (
                values["after_imports_seconds"]["p50"] / inside["after_imports_seconds"]["p50"]
            )
    return [book.append("ratios", case, ratios)] if ratios else []


def _brief(values: dict[str, Any]) -> str:
    text = f"{values['status']}, {values['wall_seconds']['p50']:.2f} s, {values['peak_memory_bytes'] / 1e9:.2f} GB"
    if values["status"] == launch.DONE:
        text += f", error {values['error']:.1e}, {values['exact_lists']}/{values['lists']} lists exact"
    elif values["message"]:
        text += f": {values['message']}"
    return text
