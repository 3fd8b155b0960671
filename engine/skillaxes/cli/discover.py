"""``skillaxes discover``, ``apply`` and ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skillaxes.cli import tables as output
from skillaxes.cli.label import Labeling, Server, Traces, label_options
from skillaxes.cli.launch import Processes, find, joined, outlook_options, stoppable
from skillaxes.cli.options import (
    AsJson,
    DryRun,
    Machine,
    Overwrite,
    Quiet,
    Ranking,
    Requeue,
    RunDir,
    Solving,
    Store,
    engine_options,
    takes,
)
from skillaxes.cli.progress import make_progress
from skillaxes.run_folder.schema import Manifest


@takes(Solving, Ranking, Machine, Processes)
def discover(
    store: Store,
    run_dir: RunDir,
    solving: Solving,
    ranking: Ranking,
    machine: Machine,
    processes: Processes,
    overwrite: Overwrite = False,
    requeue: Requeue = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the directions and the rows at both ends of each."""
    import skillaxes

    options = engine_options(ranking, machine, solving)
    if dry_run:
        _show_plan(skillaxes.plan(store, **outlook_options(processes, run_dir), **options).as_dict(), as_json)
        return
    process = find(processes)
    progress = make_progress(quiet or process.index > 0)
    with joined(process, requeue) as world:
        skillaxes.discover(store, run_dir, overwrite=overwrite, progress=progress, world=world, **options)
    if process.index == 0:
        _show_discovery(run_dir, as_json)


@takes(Ranking, Machine, Processes)
def apply(
    store: Store,
    run_dir: RunDir,
    directions: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Directions: .safetensors, .npz, or the notebook's pickled components."),
    ],
    ranking: Ranking,
    machine: Machine,
    processes: Processes,
    overwrite: Overwrite = False,
    requeue: Requeue = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Rank rows against directions that come from elsewhere."""
    import skillaxes

    options = engine_options(ranking, machine)
    process = find(processes)
    progress = make_progress(quiet or process.index > 0)
    with joined(process, requeue) as world:
        skillaxes.apply(
            store, run_dir, directions=directions, overwrite=overwrite, progress=progress, world=world, **options
        )
    if process.index == 0:
        _show_discovery(run_dir, as_json)


@takes(Solving, Ranking, Machine, Processes, Labeling, Server)
def run(
    store: Store,
    run_dir: RunDir,
    traces: Traces,
    solving: Solving,
    ranking: Ranking,
    machine: Machine,
    processes: Processes,
    labeling: Labeling,
    server: Server,
    overwrite: Overwrite = False,
    requeue: Requeue = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """The main job: discover, label and report in one go."""
    import skillaxes
    from skillaxes.errors import UsageError
    from skillaxes.labeling import LABELERS, label
    from skillaxes.report import write_report
    from skillaxes.run_folder.manifest import read_manifest

    options = engine_options(ranking, machine, solving)
    naming = {**label_options(labeling, server), "top": ranking.top, "seed": solving.seed}
    if dry_run:
        _check_labeling(store, traces, naming)
        _show_plan(skillaxes.plan(store, **outlook_options(processes, run_dir), **options).as_dict(), as_json)
        if not as_json:
            output.show(f"After discover, this tells what labels cost: skillaxes label {run_dir} --dry-run")
        return 0
    process = find(processes)
    labeler = LABELERS.get(labeling.labeler)
    if process.size > 1 and labeler is not None and not labeler.offline:
        if process.index > 0:
            return UsageError.exit_code
        raise UsageError(
            f"--labeler {labeler.name} with {process.size} processes would keep all of them waiting, often without a "
            "network: run discover here, then `skillaxes label RUN_DIR` where there is network"
        )
    progress = make_progress(quiet or process.index > 0)
    with joined(process, requeue) as world:
        if process.index == 0:
            _check_labeling(store, traces, naming)
        skillaxes.discover(store, run_dir, overwrite=overwrite, progress=progress, world=world, **options)
    if process.index > 0:
        return 0  # labels and report are written once
    with stoppable(requeue, at_once=True):  # labels are safe one by one
        named = label(run_dir, traces, progress=progress, overwrite=overwrite, **naming)
        page = write_report(run_dir)
    manifest = read_manifest(run_dir)
    if as_json:
        output.show_json({"run_dir": run_dir, "report": page, "manifest": manifest, "labels": list(named.records)})
        return named.exit_code
    output.show(
        output.axes_table(manifest, named.records),
        "",
        output.axes_legend(named.records),
        "",
        *_said(manifest),
        f"Report: {page}",
    )
    return named.exit_code


def _check_labeling(store: Path, traces: str, naming: dict[str, Any]) -> None:
    """Refuse what labeling would refuse before the directions are computed."""
    from skillaxes.labeling import LABELERS
    from skillaxes.labeling.options import make_options
    from skillaxes.labeling.traces import read_traces
    from skillaxes.store import open_store

    options = make_options(**naming)
    n_rows = open_store(store).n_rows
    LABELERS[options.labeler].check(options)
    if Path(traces).suffix in (".jsonl", ".ndjson", ".gz", ".parquet"):  # a data set is met when it is streamed
        read_traces(traces, (), lambda row, record: None, n_rows=n_rows)


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.show_json(plan)
    else:
        output.show(output.plan_table(plan))


def _show_discovery(run_dir: Path, as_json: bool) -> None:
    from skillaxes.run_folder.manifest import read_manifest

    manifest = read_manifest(run_dir)
    if as_json:
        output.show_json({"run_dir": run_dir, **manifest})
        return
    output.show(
        output.directions_table(manifest),
        "",
        output.directions_legend(),
        "",
        *_said(manifest),
        f"Written: {run_dir}",
        f"To name the directions: skillaxes label {run_dir} --traces SPEC",
    )


def _said(manifest: Manifest) -> list[Any]:
    said = output.announcements(manifest)
    return [] if said is None else [said, ""]
