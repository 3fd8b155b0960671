"""Law: the command line offers every option of the engine and of labeling as its field declares it: name, default,
help, choices. The engine gets the values that were typed, and an option that two groups share is typed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import typer

from skillaxes import config
from skillaxes.cli.app import app
from skillaxes.cli.launch import ProcessOptions
from skillaxes.cli.options import APPLY_OPTIONS, DISCOVER_OPTIONS, Values, takes
from skillaxes.config import DiscoverConfig, SolverConfig, make_config
from skillaxes.errors import UsageError
from skillaxes.labeling.options import LabelOptions, make_options
from skillaxes.options import as_names, as_path, converted, flag, option, option_of

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OFFERED: dict[str, tuple[Any, ...]] = {
    "discover": (*DISCOVER_OPTIONS, ProcessOptions),
    "apply": (*APPLY_OPTIONS, ProcessOptions),
    "run": (*DISCOVER_OPTIONS, ProcessOptions, LabelOptions),
    "label": (LabelOptions,),
}
MAKERS: dict[str, Callable[..., Any]] = {"discover": make_config, "label": make_options}


def options_of(command: str) -> dict[str, Any]:
    """The parameters of a command by name."""
    return {parameter.name: parameter for parameter in COMMANDS[command].params}


def declared(command: str) -> Iterator[tuple[Any, Field[Any]]]:
    """The fields that a command offers, each with its dataclass; of two of one name the first."""
    seen = set()
    for group in OFFERED[command]:
        for one in fields(group):
            if one.name not in seen:
                seen.add(one.name)
                yield group, one


def test_discover_offers_all_groups() -> None:
    assert {*DISCOVER_OPTIONS} == {type(getattr(DiscoverConfig(), one.name)) for one in fields(DiscoverConfig)}
    assert {*DISCOVER_OPTIONS} - {*APPLY_OPTIONS} == {SolverConfig}


@pytest.mark.parametrize("command", OFFERED)
def test_every_option_is_offered_as_its_field_declares_it(command: str) -> None:
    offered = options_of(command)
    for _, one in declared(command):
        about, shown = option_of(one), offered[one.name]
        assert set(shown.opts) == {flag(one.name), *about.flags}, one.name
        assert shown.secondary_opts == [], one.name  # no --no-... that nobody declared
        assert (shown.help, shown.metavar) == (about.help, about.metavar), one.name
        assert about.help and (about.metavar or isinstance(one.default, bool)), one.name


@pytest.mark.parametrize("command", OFFERED)
def test_every_default_is_the_fields_own(command: str) -> None:
    offered = options_of(command)
    for group, one in declared(command):
        typed = offered[one.name].default
        made = one.default if typed is None else converted(group, one.name, typed)
        assert made == one.default, one.name


@pytest.mark.parametrize("command", ["discover", "label"])
def test_choices_stand_in_the_help_and_others_are_refused(command: str) -> None:
    with_choices = [one for _, one in declared(command) if option_of(one).choices]
    assert len(with_choices) >= 3
    for one in with_choices:
        for choice in option_of(one).choices or ():
            assert choice in options_of(command)[one.name].help, one.name
            MAKERS[command](**{one.name: choice})
        with pytest.raises(UsageError, match=rf"{flag(one.name)} odd: is not one of "):
            MAKERS[command](**{one.name: "odd"})


def test_run_offers_what_discover_and_label_offer() -> None:
    assert set(options_of("run")) == set(options_of("discover")) | set(options_of("label"))
    assert options_of("run")["top"].default == make_config().ranking.top


@dataclass(frozen=True)
class First:
    number: int = option(3, "-n", metavar="N", help="A number.")
    shared: str = option("a", metavar="TEXT", help="Of both.")
    flagged: bool = option(False, help="A flag.")


@dataclass(frozen=True)
class Second:
    shared: str = option("b", metavar="TEXT", help="Not shown.")
    size: int | None = option(None, convert=config._bytes, metavar="SIZE", help="Bytes.", shown_default="auto")
    names: tuple[str, ...] = option((), convert=as_names, metavar="NAME", help="Names.")
    path: Path | None = option(None, convert=as_path, metavar="FILE", help="A path.")


def toy(*arguments: str) -> tuple[Values, Values]:
    """What a command with these two groups gets."""
    got = []

    @takes(first=(First,), second=(Second,))
    def command(first: Values, second: Values) -> None:
        got.append((first, second))

    made = typer.Typer(add_completion=False, rich_markup_mode=None)
    made.command()(command)
    made(list(arguments), standalone_mode=False)
    return got[0]


def test_a_command_gets_each_group_of_values() -> None:
    assert toy() == ({"number": 3, "shared": "a", "flagged": False}, {"shared": "a", "size": "auto"})
    first, second = toy(
        "-n", "5", "--flagged", "--shared", "c", "--size", "2GiB", "--names", "x", "--names", "y", "--path", "p"
    )  # fmt: skip
    assert first == {"number": 5, "shared": "c", "flagged": True}
    assert second == {"shared": "c", "size": "2GiB", "names": ["x", "y"], "path": "p"}


def test_typed_values_reach_the_engine_converted() -> None:
    made = make_config(layers=" 19, 7 ,", memory="2GiB", scratch="x")
    assert made.input.layers == (7, 19)
    assert made.machine.memory == 2 << 30
    assert made.machine.scratch == Path("x")
    assert make_config(memory="auto") == make_config()
    with pytest.raises(UsageError, match=r"--layers 15;19: needs layer ids with commas"):
        make_config(layers="15;19")
    with pytest.raises(UsageError, match=r"--memory: 'much' is not a size"):
        make_config(memory="much")


def test_texts_of_ingest_keep_their_order() -> None:
    assert config.parse_layer_ids("--layer-ids", "15, 3,7,") == (15, 3, 7)
    assert config.parse_bytes("--shard-size", "512MiB") == 512 << 20
    with pytest.raises(UsageError, match=r"--layer-ids x: needs layer ids with commas"):
        config.parse_layer_ids("--layer-ids", "x")
    with pytest.raises(UsageError, match=r"--shard-size: 'auto' is not a size"):
        config.parse_bytes("--shard-size", "auto")
