"""The options that several commands share, in groups: one dataclass a group, one field an option.

``@takes`` gives a command the options of its groups: Typer sees them one by one, the command gets each
group as one value.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Store = Annotated[Path, typer.Argument(metavar="STORE", help="A zarr array of activations: one row per trace.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder that everything is written to.")]
ExistingRunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of an earlier run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")]
Requeue = Annotated[
    bool, typer.Option("--requeue", help="Stopped by a signal, ask Slurm to put the job back into its queue.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no remarks.")]


@dataclass
class Ranking:
    """Which rows stand at the ends of a direction."""

    top: Annotated[int, typer.Option(metavar="N", help="Rows kept at each end of each direction.")] = 10
    pool: Annotated[
        int, typer.Option(metavar="N", help="Rows kept at each end for labeling and for the scores of labels.")
    ] = 200
    rank_by: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="raw-cosine, centered-cosine or projection: what the rows of a direction are ordered by.",
        ),
    ] = "raw-cosine"
    layers: Annotated[
        str | None, typer.Option(metavar="IDS", help="Use these layers only, by layer id: --layers 15,19.")
    ] = None
    bad_rows: Annotated[
        str,
        typer.Option(metavar="HOW", help="Rows with NaN or infinity: error names them, skip leaves them out."),
    ] = "error"


@dataclass
class Solving:
    """How the directions are found."""

    components: Annotated[int, typer.Option("--components", "-k", metavar="N", help="Directions to find.")] = 10
    solver: Annotated[
        str,
        typer.Option(metavar="NAME", help="auto, krylov, incremental or covariance; auto follows a written rule."),
    ] = "auto"
    tolerance: Annotated[
        float, typer.Option(metavar="T", help="A direction is done when |C v - λ v| / λ is below it.")
    ] = 1e-3
    max_reads: Annotated[int, typer.Option(metavar="N", help="Read the store at most this often.")] = 8
    scale: Annotated[
        str,
        typer.Option(metavar="HOW", help="none, layer-rms (layers of equal size) or column-std (columns likewise)."),
    ] = "none"
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same bytes.")] = 0


@dataclass
class Machine:
    """What the job may use. None of these changes a result."""

    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto"
    memory: Annotated[
        str,
        typer.Option(metavar="SIZE", help="What the process may hold: 2GiB, 512MiB; auto is 60% of what is granted."),
    ] = "auto"
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For what memory does not hold. [default: $SLURM_TMPDIR, then $TMPDIR]"),
    ] = None
    no_gds: Annotated[
        bool, typer.Option("--no-gds", help="Never fetch chunks straight into a GPU's memory (GPUDirect Storage).")
    ] = False
    checkpoint_every: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Write a checkpoint this often within a read; 0 at every panel."),
    ] = 600.0


def takes(*groups: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command, in the place of each parameter that is a group, the options of that group."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(command, include_extras=True)
        flat, group_of = [], {}
        for name, parameter in inspect.signature(command).parameters.items():
            if hints[name] in groups:
                group_of[name] = hints[name]
                flat += _options_of(hints[name])
            else:
                flat.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(command)
        def wrapped(**given: Any) -> Any:
            for name, group in group_of.items():
                given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
            return command(**given)

        # What Typer reads.
        wrapped.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
        return wrapped

    return decorate


def _options_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]


def layer_ids(text: str | None, option: str = "--layers") -> tuple[int, ...] | None:
    """``"15,19"`` as ``(15, 19)``."""
    from skillaxes.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"{option} {text}: needs layer ids with commas between them, for example 15,19") from None


def size(text: str, option: str) -> int:
    """``"2GiB"`` as bytes."""
    from skillaxes.errors import UsageError
    from skillaxes.memory import parse_size

    try:
        return parse_size(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None


def engine_options(ranking: Ranking, machine: Machine, solving: Solving | None = None) -> dict[str, Any]:
    """The groups as the keywords of ``skillaxes.discover`` and ``skillaxes.apply``."""
    options = {**vars(ranking), **vars(machine), **(vars(solving) if solving else {})}
    options["layers"] = layer_ids(ranking.layers)
    options["memory"] = None if machine.memory == "auto" else size(machine.memory, "--memory")
    return options
