"""A labeler is two methods: with the defaults of the base class it labels, scores, and costs nothing. The table and the
options agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest

from skillaxes.labeling import LABELERS, LabelOptions, estimate, label
from skillaxes.labeling.labelers.base import Judge, Labeler
from skillaxes.labeling.labels import NEITHER, Label
from skillaxes.labeling.options import SERVER
from skillaxes.labeling.texts import Trace


class FirstWords(Labeler):
    name = "first-words"

    def label(self, positive: Sequence[Trace], negative: Sequence[Trace], usage_key: str) -> Label:
        return Label(tuple(positive[0].text.split()[:3]), tuple(negative[0].text.split()[:3]))

    def judge(self, label: Label, usage_key: str) -> Judge:
        return FirstWordsJudge()


class FirstWordsJudge:
    def pair(self, one: Trace, other: Trace) -> float:
        return 0.5

    def detect(self, trace: Trace) -> str:
        return NEITHER


def test_two_methods_are_enough(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LABELERS, LabelOptions.labeler, FirstWords)
    assert estimate(folder.run_dir, folder.traces).requests == 0
    summary = label(folder.run_dir, folder.traces)
    assert summary.exit_code == 0 and summary.spent == 0.0 and summary.n_labelled == 2
    for record in summary.records:
        assert record["labeler"] == "first-words" and record["kind"] == "name"
        assert (record["model"], record["base_url"], record["rung"]) == (None, None, None)
        assert len(record["keywords"]["positive"]) == 3 and record["scores"]["pairs"]["accuracy"] == 0.5
        assert record["baselines"]["random_orders"]["asked"] == FirstWords.default_baselines


def test_the_table_and_the_options_agree() -> None:
    declared = {field.name: field.metadata["option"] for field in fields(LabelOptions)}
    assert declared["labeler"].choices == tuple(LABELERS)
    for name, labeler in LABELERS.items():
        assert labeler.name == name and name in declared["labeler"].help
        assert labeler.result_options <= {option for option in declared if declared[option].panel == SERVER}
        assert labeler.offline or str(labeler.default_baselines) in declared["baselines"].help


def test_options_of_a_server_count_where_they_shape_labels() -> None:
    first, second = LabelOptions(model="a", max_cost=1.0), LabelOptions(model="b", max_cost=2.0)
    assert first.digest("x") == second.digest("x")
    (online,) = (name for name, labeler in LABELERS.items() if not labeler.offline)
    digests = {
        LabelOptions(labeler=online, model=model, max_cost=cost).digest("x") for model in "ab" for cost in (1, 2)
    }
    assert len(digests) == 2


@pytest.mark.parametrize("field", fields(LabelOptions), ids=lambda field: field.name)
def test_every_option_says_what_it_is(field: Any) -> None:
    assert field.metadata["option"].help and field.metadata["option"].metavar
