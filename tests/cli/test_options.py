"""Law: the command line offers every option of the engine and of labeling, with the same default."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from skillaxes.cli import discover as discovering
from skillaxes.cli import label as labels
from skillaxes.cli.options import Machine, Ranking, Solving, engine_options, layer_ids, size
from skillaxes.config import DiscoverConfig, make_config
from skillaxes.errors import UsageError
from skillaxes.labeling.options import LabelOptions, make_options


def test_discover_offers_every_option_with_its_default() -> None:
    assert make_config(**engine_options(Ranking(), Machine(), Solving())) == DiscoverConfig()
    offered = inspect.signature(discovering.discover).parameters
    assert {field.name for field in fields(DiscoverConfig)} <= set(offered)


def test_label_offers_every_option_with_its_default() -> None:
    assert make_options(**labels.label_options(labels.Labeling(), labels.Server())) == LabelOptions()
    offered = inspect.signature(labels.label).parameters
    assert {field.name for field in fields(LabelOptions)} <= set(offered)


def test_run_offers_what_discover_and_label_offer() -> None:
    parts = {*inspect.signature(discovering.discover).parameters, *inspect.signature(labels.label).parameters}
    assert set(inspect.signature(discovering.run).parameters) == parts


def test_layer_ids() -> None:
    assert layer_ids(None) is None
    assert layer_ids("15,19") == (15, 19)
    assert layer_ids(" 3, 7 ,") == (3, 7)
    with pytest.raises(UsageError, match=r"--layers 15;19: needs layer ids with commas"):
        layer_ids("15;19")


def test_sizes_and_paths_reach_the_engine_as_values() -> None:
    options = engine_options(Ranking(layers="7"), Machine(memory="2GiB", scratch=Path("x")), Solving(components=3))
    assert options["memory"] == 2 << 30
    assert options["layers"] == (7,)
    assert options["scratch"] == Path("x")
    assert options["components"] == 3
    assert size("512MiB", "--memory") == 512 << 20
    with pytest.raises(UsageError, match=r"--memory: 'much' is not a size"):
        size("much", "--memory")
