"""The options of the commands, made from the fields of dataclasses of options.

``@takes`` gives a command an option for every field of the dataclasses that it names. A field declares its default, its
flags and its help by :func:`skillaxes.options.option`; nothing of that stands here. The parameters that only commands
have (``STORE``, ``--json``, ...) are declared below.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from skillaxes.config import GROUPS, SolverConfig
from skillaxes.options import flag, option_of

Store = Annotated[Path, typer.Argument(metavar="STORE", help="A zarr array of activations: one row per trace.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder that everything is written to.")]
ExistingRunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of an earlier run.")]
Traces = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="The texts behind the rows: a .jsonl or .parquet file, or a Hugging Face data set NAME[:CONFIG][:SPLIT].",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")]
Requeue = Annotated[
    bool, typer.Option("--requeue", help="Stopped by a signal, ask Slurm to put the job back into its queue.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no remarks.")]

# Values of options by the names of their fields, as keywords of `skillaxes.discover` and the like. An option that was
# not given and has no default is missing.
Values = dict[str, Any]

DISCOVER_OPTIONS = tuple(GROUPS.values())
APPLY_OPTIONS = tuple(group for group in DISCOVER_OPTIONS if group is not SolverConfig)


def takes(**parameters: tuple[type, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of some dataclasses.

    Where two parameters have a field of the same name, the command line offers the option once, as the first one
    declares it, and both get its value.

    Parameters
    ----------
    **parameters : parameter of the command -> the dataclasses whose options stand in its place; it gets :data:`Values`
    """
    offered = {
        name: {one: offer for group in groups for one, offer in _offers(group).items()}
        for name, groups in parameters.items()
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(command, include_extras=True)
        flat: dict[str, inspect.Parameter] = {}
        for name, parameter in inspect.signature(command).parameters.items():
            own = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for one, offer in offered.get(name, {name: own}).items():
                flat.setdefault(one, offer)

        @functools.wraps(command)
        def wrapped(**given: Any) -> Any:
            arguments = {name: value for name, value in given.items() if name in hints}
            for name, options in offered.items():
                arguments[name] = {one: given[one] for one in options if given[one] is not None}
            return command(**arguments)

        # Typer reads these two.
        wrapped.__signature__ = inspect.Signature(list(flat.values()))  # type: ignore[attr-defined]
        wrapped.__annotations__ = {name: parameter.annotation for name, parameter in flat.items()}
        return wrapped

    return decorate


@functools.cache
def _offers(group: type) -> dict[str, inspect.Parameter]:
    """The fields of a dataclass as parameters of a command, by name."""
    hints = get_type_hints(group)
    return {one.name: _parameter(one, hints[one.name]) for one in fields(group)}


def _parameter(one: Field[Any], hint: Any) -> inspect.Parameter:
    """A field as a parameter in Typer's terms."""
    about = option_of(one)
    default = one.default if about.shown_default is None else about.shown_default
    if default == ():  # repeatable
        hint, default = list[str] | None, None
    elif about.convert is not None:  # the dataclass converts text
        hint = str | None
    shown = typer.Option(flag(one.name), *about.flags, metavar=about.metavar, help=about.help)
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, shown]
    )
