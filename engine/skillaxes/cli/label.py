"""``skillaxes label``."""

from __future__ import annotations

from skillaxes.cli import tables
from skillaxes.cli.options import AsJson, DryRun, ExistingRunDir, Overwrite, Quiet, Traces, Values, takes
from skillaxes.cli.progress import make_progress
from skillaxes.labeling.options import LabelOptions


@takes(options=(LabelOptions,))
def label(
    run_dir: ExistingRunDir,
    traces: Traces,
    options: Values,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Name the directions of a run from the texts behind its rows."""
    from skillaxes import labeling
    from skillaxes.run_folder.manifest import read_manifest

    manifest = read_manifest(run_dir)
    progress = make_progress(quiet)
    if dry_run:
        estimate = labeling.estimate(run_dir, traces, progress=progress, **options).as_dict()
        if as_json:
            tables.show_json(estimate)
        else:
            tables.show(tables.estimate_table(estimate))
        return 0
    summary = labeling.label(run_dir, traces, progress=progress, overwrite=overwrite, **options)
    if as_json:
        tables.show_json({"run_dir": run_dir, "labels": list(summary.records), "spent": summary.spent})
    else:
        tables.show(
            tables.label_table(manifest, summary.records),
            "",
            tables.label_legend(summary.records),
            "",
            f"Labels: {summary.path}",
            f"To see them: skillaxes report {run_dir}",
        )
    return summary.exit_code
