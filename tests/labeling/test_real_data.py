"""On real activations of real traces: direction 0 goes along with text length and is reported so; labels of random
orders of the rows come out significant no more often than a 95% interval allows; every direction has its figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skillaxes.labeling import label

SHARED = Path(os.environ.get("SKILLAXES_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
DATA = SHARED / "smollm2-reasoning"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, exact_cosines: Any, selection_writer: Any) -> Any:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not here")
    matrix = np.load(DATA / "activations.npy")
    scores, random_scores, norms = exact_cosines(matrix, 10, 20)
    ids = [json.loads(line)["id"] for line in (DATA / "traces.jsonl").read_text().splitlines()]
    folder = selection_writer(
        tmp_path_factory.mktemp("real") / "run", scores, random_scores=random_scores, norms=norms, ids=ids,
        token_range=[1, 160],
    )  # fmt: skip
    return label(folder, DATA / "traces.jsonl", confound="category", disjoint_by="category")


def test_direction_0_goes_along_with_length(labelled: Any) -> None:
    confounds = labelled.records[0]["confounds"]
    assert confounds["rows"] == 4096
    assert confounds["spearman"]["text length"] == pytest.approx(0.73, abs=0.02)
    assert "text length" in confounds["confounded_with"]
    assert not labelled.records[0]["verdict"]["survives"]
    assert "no better than text length" in labelled.records[0]["verdict"]["text"]


def test_random_orders_are_a_null(labelled: Any) -> None:
    orders = labelled.records[0]["baselines"]["random_orders"]
    assert orders["scored"] == 20 and orders["significant"] <= 2
    assert 0.4 < float(np.mean(orders["accuracies"])) < 0.6


def test_every_direction_has_its_figures(labelled: Any) -> None:
    assert labelled.n_labelled == 10
    for record in labelled.records:
        pairs = record["scores"]["pairs"]
        assert pairs["low"] < pairs["accuracy"] <= pairs["high"] <= 1
        assert record["baselines"]["length"]["pairs"] == pairs["pairs"]
        assert record["baselines"]["random_directions"]["scored"] == 20
        assert record["confounds"]["categories"]["category"]["positive"]
        assert record["verdict"]["text"]


def test_random_directions_are_no_null(labelled: Any) -> None:
    # The reason for the baseline: labels of meaningless directions predict held-out texts well.
    assert labelled.records[0]["baselines"]["random_directions"]["p95"] > 0.9
