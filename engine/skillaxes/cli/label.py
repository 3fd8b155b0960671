"""``skillaxes label``, and the options of labels that ``run`` takes too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from skillaxes.cli import tables as output
from skillaxes.cli.options import AsJson, DryRun, ExistingRunDir, Overwrite, Quiet, takes
from skillaxes.cli.progress import make_progress
from skillaxes.labeling.options import LabelOptions

Traces = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="The texts behind the rows: a .jsonl or .parquet file, or a Hugging Face data set NAME[:CONFIG][:SPLIT].",
    ),
]


@dataclass
class Labeling:
    """How a label is made and scored."""

    labeler: Annotated[
        str, typer.Option(metavar="NAME", help="keywords (offline, free) or openai (any server that speaks its API).")
    ] = LabelOptions.labeler
    text: Annotated[
        str, typer.Option(metavar="PART", help="both, input or output: what the label may see of a trace.")
    ] = LabelOptions.text
    window: Annotated[
        str, typer.Option(metavar="PART", help="store (the part of the text that the row has seen) or all.")
    ] = LabelOptions.window
    template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="How a record becomes text: '{problem}\\n\\n{solution}'. [default: chat messages]"
        ),
    ] = LabelOptions.template
    group_by: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Keep rows of one value apart when scoring. [default: similar prompts]"),
    ] = LabelOptions.group_by
    disjoint_by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Keep this apart as well for the second, disjoint score.")
    ] = LabelOptions.disjoint_by
    confound: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Hold this field against the directions. Repeatable.")
    ] = None
    pairs: Annotated[int, typer.Option(metavar="N", help="Blind pairs a score is made of.")] = LabelOptions.pairs
    detections: Annotated[int, typer.Option(metavar="N", help="Traces that are judged each alone.")] = (
        LabelOptions.detections
    )
    samples: Annotated[
        int, typer.Option(metavar="N", help="Label from N disjoint samples and report how well they agree.")
    ] = LabelOptions.samples
    baselines: Annotated[
        int | None,
        typer.Option(metavar="N", help="Random directions and orders to score likewise. [default: 20, openai 5]"),
    ] = LabelOptions.baselines


@dataclass
class Server:
    """The language model behind ``--labeler openai``."""

    model: Annotated[str, typer.Option(metavar="NAME", help="The model.")] = LabelOptions.model
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The server, when it is not OpenAI's. The key: $OPENAI_API_KEY.")
    ] = LabelOptions.base_url
    trace_tokens: Annotated[int, typer.Option(metavar="N", help="Most tokens of one trace in a prompt.")] = (
        LabelOptions.trace_tokens
    )
    context_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens the model can hold. [default: by the price table]")
    ] = LabelOptions.context_tokens
    max_output_tokens: Annotated[int | None, typer.Option(metavar="N", help="Cap on a reply, reasoning included.")] = (
        LabelOptions.max_output_tokens
    )
    reasoning_effort: Annotated[str | None, typer.Option(metavar="HOW", help="Sent as it is, when set.")] = (
        LabelOptions.reasoning_effort
    )
    temperature: Annotated[float | None, typer.Option(metavar="T", help="Sent as it is, when set.")] = (
        LabelOptions.temperature
    )
    service_tier: Annotated[str | None, typer.Option(metavar="NAME", help="Sent as it is, when set.")] = (
        LabelOptions.service_tier
    )
    max_cost: Annotated[
        float | None, typer.Option(metavar="USD", help="Spend at most this much, by the price table.")
    ] = LabelOptions.max_cost
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A price table in place of the one that comes along.")
    ] = LabelOptions.prices
    concurrency: Annotated[int, typer.Option(metavar="N", help="Requests under way at once.")] = (
        LabelOptions.concurrency
    )
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for a reply.")] = (
        LabelOptions.timeout
    )
    retries: Annotated[int, typer.Option(metavar="N", help="Repeats after a rate limit or a lost connection.")] = (
        LabelOptions.retries
    )


def label_options(labeling: Labeling, server: Server) -> dict[str, Any]:
    """The groups as the keywords of ``skillaxes.labeling.label``."""
    return {**vars(labeling), **vars(server), "confound": tuple(labeling.confound or ())}


@takes(Labeling, Server)
def label(
    run_dir: ExistingRunDir,
    traces: Traces,
    labeling: Labeling,
    server: Server,
    top: Annotated[
        int | None, typer.Option(metavar="N", help="Traces shown to the labeler an end. [default: as discover]")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of every draw.")] = LabelOptions.seed,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Name the directions of a run from the texts behind its rows."""
    from skillaxes import labeling as room
    from skillaxes.run_folder.manifest import read_manifest

    options = {**label_options(labeling, server), "top": top, "seed": seed}
    manifest = read_manifest(run_dir)
    progress = make_progress(quiet)
    if dry_run:
        estimate = room.estimate(run_dir, traces, progress=progress, **options)
        if as_json:
            output.show_json(estimate.as_dict())
        else:
            output.show(output.estimate_table(estimate.as_dict()))
        return 0
    named = room.label(run_dir, traces, progress=progress, overwrite=overwrite, **options)
    if as_json:
        output.show_json({"run_dir": run_dir, "labels": list(named.records), "spent": named.spent})
    else:
        output.show(
            output.axes_table(manifest, named.records),
            "",
            output.axes_legend(named.records),
            "",
            f"Labels: {named.path}",
            f"To see them: skillaxes report {run_dir}",
        )
    return named.exit_code
