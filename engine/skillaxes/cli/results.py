"""``skillaxes report``, ``export`` and ``doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from skillaxes.cli import tables
from skillaxes.cli.options import AsJson, ExistingRunDir, Overwrite


def report(run_dir: ExistingRunDir, as_json: AsJson = False) -> None:
    """Write RUN_DIR/report.html, the page to look at."""
    from skillaxes.report import write_report

    page = write_report(run_dir)
    if as_json:
        tables.show_json({"report": page})
    else:
        tables.show(f"Report: {page}")


def export(
    run_dir: ExistingRunDir,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to: a .safetensors or .npz file.")],
    flat: Annotated[
        bool, typer.Option("--flat", help="Directions as (k, columns), for a store that names no layers.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export the directions for steering.

    As (layers, hidden), with the deviation of the rows' projections along each.
    """
    from skillaxes.export import export as write_export

    written = write_export(run_dir, file, flat=flat, overwrite=overwrite)
    if as_json:
        tables.show_json({"file": written})
    else:
        tables.show(f"Exported: {written}")


def doctor(
    scratch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The scratch folder to look at. [default: $TMPDIR]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what this machine can do, and what it lacks."""
    from skillaxes.doctor import examine

    findings = examine(scratch)
    if as_json:
        tables.show_json({"findings": [asdict(finding) for finding in findings]})
        return
    signs = {True: "yes", False: "no", None: ""}
    rows = [[finding.group, finding.name, signs[finding.ok], finding.value] for finding in findings]
    groups: set[str] = set()
    for row in rows:
        row[0] = "" if row[0] in groups else row[0]
        groups.add(row[0])
    tables.show(tables.plain_table(["", "what", "usable", "found"], rows))
