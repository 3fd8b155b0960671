"""``skillaxes discover``, ``apply`` and ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skillaxes.cli import tables
from skillaxes.cli.launch import ProcessOptions, forecast_options, joined, stoppable, this_process
from skillaxes.cli.options import (
    APPLY_OPTIONS,
    DISCOVER_OPTIONS,
    AsJson,
    DryRun,
    Overwrite,
    Quiet,
    Requeue,
    RunDir,
    Store,
    Traces,
    Values,
    takes,
)
from skillaxes.cli.progress import make_progress
from skillaxes.labeling.options import LabelOptions
from skillaxes.run_folder.schema import Manifest


@takes(options=DISCOVER_OPTIONS, processes=(ProcessOptions,))
def discover(
    store: Store,
    run_dir: RunDir,
    options: Values,
    processes: Values,
    overwrite: Overwrite = False,
    requeue: Requeue = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the directions and the rows at both ends of each."""
    import skillaxes

    if dry_run:
        _show_plan(skillaxes.plan(store, **forecast_options(processes, run_dir), **options).as_dict(), as_json)
        return
    process = this_process(processes)
    progress = make_progress(quiet or process.index > 0)
    with joined(process, requeue) as world:
        skillaxes.discover(store, run_dir, overwrite=overwrite, progress=progress, world=world, **options)
    if process.index == 0:
        _show_discovery(run_dir, as_json)


@takes(options=APPLY_OPTIONS, processes=(ProcessOptions,))
def apply(
    store: Store,
    run_dir: RunDir,
    directions: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Directions: .safetensors, .npz, or the notebook's pickled components."),
    ],
    options: Values,
    processes: Values,
    overwrite: Overwrite = False,
    requeue: Requeue = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Rank rows against directions that come from elsewhere."""
    import skillaxes

    process = this_process(processes)
    progress = make_progress(quiet or process.index > 0)
    with joined(process, requeue) as world:
        skillaxes.apply(
            store, run_dir, directions=directions, overwrite=overwrite, progress=progress, world=world, **options
        )
    if process.index == 0:
        _show_discovery(run_dir, as_json)


@takes(options=DISCOVER_OPTIONS, processes=(ProcessOptions,), label_options=(LabelOptions,))
def run(
    store: Store,
    run_dir: RunDir,
    traces: Traces,
    options: Values,
    processes: Values,
    label_options: Values,
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

    if dry_run:
        _check_labeling(store, traces, label_options)
        _show_plan(skillaxes.plan(store, **forecast_options(processes, run_dir), **options).as_dict(), as_json)
        if not as_json:
            tables.show(f"After discover, this tells what labels cost: skillaxes label {run_dir} --dry-run")
        return 0
    process = this_process(processes)
    labeler = LABELERS.get(label_options["labeler"])
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
            _check_labeling(store, traces, label_options)
        skillaxes.discover(store, run_dir, overwrite=overwrite, progress=progress, world=world, **options)
    if process.index > 0:
        return 0  # labels and report are written once
    with stoppable(requeue, at_once=True):  # labels are safe one by one
        summary = label(run_dir, traces, progress=progress, overwrite=overwrite, **label_options)
        page = write_report(run_dir)
    manifest = read_manifest(run_dir)
    if as_json:
        tables.show_json({"run_dir": run_dir, "report": page, "manifest": manifest, "labels": list(summary.records)})
        return summary.exit_code
    tables.show(
        tables.label_table(manifest, summary.records),
        "",
        tables.label_legend(summary.records),
        "",
        *_diagnostics(manifest),
        f"Report: {page}",
    )
    return summary.exit_code


def _check_labeling(store: Path, traces: str, label_options: Values) -> None:
    """Refuse before the directions are computed whatever labeling would refuse after that."""
    from skillaxes.labeling import LABELERS
    from skillaxes.labeling.options import make_options
    from skillaxes.labeling.traces import read_traces
    from skillaxes.store import open_store

    options = make_options(**label_options)
    n_rows = open_store(store).n_rows
    LABELERS[options.labeler].check(options)
    if Path(traces).suffix in (".jsonl", ".ndjson", ".gz", ".parquet"):  # a data set is met when it is streamed
        read_traces(traces, (), lambda row, record: None, n_rows=n_rows)


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        tables.show_json(plan)
    else:
        tables.show(tables.plan_table(plan))


def _show_discovery(run_dir: Path, as_json: bool) -> None:
    from skillaxes.run_folder.manifest import read_manifest

    manifest = read_manifest(run_dir)
    if as_json:
        tables.show_json({"run_dir": run_dir, **manifest})
        return
    tables.show(
        tables.directions_table(manifest),
        "",
        tables.directions_legend(),
        "",
        *_diagnostics(manifest),
        f"Written: {run_dir}",
        f"To name the directions: skillaxes label {run_dir} --traces SPEC",
    )


def _diagnostics(manifest: Manifest) -> list[Any]:
    """The table of diagnostics and an empty line; nothing where there are none."""
    table = tables.diagnostics_table(manifest)
    return [] if table is None else [table, ""]
