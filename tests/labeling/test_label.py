"""``label`` turns a selection and texts into ``labels.jsonl``: one record a direction with its evidence, the same bytes
every time, nothing at all when the input cannot be used, and no torch, zarr or solver on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skillaxes.errors import RunFolderError, TracesError, UsageError
from skillaxes.labeling import LabelOptions, estimate, label
from skillaxes.run_folder import schema


def test_record(folder: Any) -> None:
    summary = label(folder.run_dir, folder.traces, confound="kind")
    assert summary.exit_code == 0 and summary.spent == 0.0 and summary.path == folder.run_dir / schema.LABELS
    records = [json.loads(line) for line in summary.path.read_text().splitlines()]
    assert [record["direction"] for record in records] == [0, 1]
    record = records[0]
    assert record["kind"] == "words" and record["labeler"] == "keywords"
    assert record["keywords"]["positive"][0] == "upwarda" and record["keywords"]["negative"][0] == "downwarda"
    assert record["title"].startswith("upwarda") and " vs. downwarda" in record["title"]
    assert len(record["shown"]["positive"]) == len(record["shown"]["negative"]) == 5
    scores = [shown["score"] for shown in record["shown"]["positive"]]
    assert scores == sorted(scores, reverse=True)
    assert record["scores"]["pairs"]["accuracy"] > 0.9 and record["scores"]["pairs"]["low"] > 0.7
    assert (
        record["baselines"]["random_directions"]["asked"] == 3 and record["baselines"]["random_orders"]["asked"] == 20
    )
    assert record["baselines"]["length"]["pairs"] == record["scores"]["pairs"]["pairs"]
    assert record["confounds"]["rows"] == 240
    assert set(record["confounds"]["spearman"]) == {"text length", "row norm", "digits", "symbols"}
    assert set(record["confounds"]["categories"]) == {"kind"}
    assert record["usage"]["requests"] == 0 and record["cost"] == 0.0
    assert record["verdict"]["text"]


def test_same_bytes_every_time(folder: Any) -> None:
    first = label(folder.run_dir, folder.traces).path.read_bytes()
    assert label(folder.run_dir, str(folder.traces)).path.read_bytes() == first
    assert label(folder.run_dir, folder.traces, options=LabelOptions()).path.read_bytes() == first


def test_no_row_order_of_strings_matters(folder: Any) -> None:
    label(folder.run_dir, folder.traces)
    first = (folder.run_dir / schema.LABELS).read_bytes()
    code = f"from skillaxes.labeling import label; label({str(folder.run_dir)!r}, {str(folder.traces)!r})"
    for seed in "12":
        subprocess.run([sys.executable, "-c", code], check=True, env=_environment(PYTHONHASHSEED=seed))
        assert (folder.run_dir / schema.LABELS).read_bytes() == first


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "engine"), **more}


def test_walls() -> None:
    code = """
import sys
import skillaxes.labeling, skillaxes.labeling.options
assert not {"pyarrow", "openai", "datasets", "numpy", "pydantic"} & set(sys.modules), "importing does nothing"
from skillaxes.labeling import label, estimate
import skillaxes.labeling.labelers.openai
heavy = {"torch", "zarr", "zarrs", "sklearn", "scipy", "openai", "datasets"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labeler": "magic"}, "--labeler magic: is not one of keywords, openai"),
        ({"top": -1}, "--top -1: needs a whole number of at least 1"),
        ({"top": 61}, r"--top 61: needs 61 rows a side, and the selection keeps 60; type --top 60 or run"),
        ({"top": 20, "samples": 4}, r"--top 20 --samples 4: needs 80 rows a side"),
        ({"window": "some"}, "--window some"),
        ({"text": "all"}, "--text all"),
        ({"max_cost": 0}, "--max-cost 0"),
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"temperature": 3.0}, "--temperature 3"),
        ({"template": "{"}, "--template"),
    ],
)
def test_wrong_usage(folder: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        label(folder.run_dir, folder.traces, **options)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    assert not (folder.run_dir / schema.LABELS).exists()


def test_unusable_input(folder: Any, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"selection.parquet does not exist: .*skillaxes discover"):
        label(tmp_path / "none", folder.traces)
    with pytest.raises(TracesError, match="no field 'topic': it has id, kind, input, output"):
        label(folder.run_dir, folder.traces, confound="topic")
    short = tmp_path / "short.jsonl"
    short.write_text("".join(folder.traces.read_text().splitlines(keepends=True)[:200]))
    with pytest.raises(TracesError, match="200 records for 240 rows of the store"):
        label(folder.run_dir, short)
    (folder.run_dir / schema.SELECTION).write_bytes(b"nothing")
    with pytest.raises(RunFolderError, match="cannot be read as parquet"):
        label(folder.run_dir, folder.traces)
    assert not (folder.run_dir / schema.LABELS).exists()


def test_what_is_unknown_is_announced(folder: Any) -> None:
    assert any("the store says nothing of what part" in note for note in label(folder.run_dir, folder.traces).notes)


def test_options_that_change_labels_need_overwrite(folder: Any) -> None:
    label(folder.run_dir, folder.traces)
    with pytest.raises(RunFolderError, match="--overwrite"):
        label(folder.run_dir, folder.traces, top=4)
    label(folder.run_dir, folder.traces, model="of no matter here")
    assert label(folder.run_dir, folder.traces, top=4, overwrite=True).n_labelled == 2


def test_samples_agree(folder: Any) -> None:
    summary = label(folder.run_dir, folder.traces, samples=3)
    for record in summary.records:
        assert record["agreement"]["samples"] == 3 and record["agreement"]["overlap"] > 0.19
        assert record["agreement"]["swapped"] == 1.0
        assert len(record["shown"]["positive"]) == 15


def test_estimate_of_nothing_to_pay(folder: Any) -> None:
    found = estimate(folder.run_dir, folder.traces)
    assert found.requests == 0 and found.cost == 0.0 and found.directions == 2
    assert not (folder.run_dir / schema.LABELS).exists()


def test_tiny_selections_still_get_records(tmp_path: Path, folder_of: Callable[..., Any]) -> None:
    folder = folder_of(tmp_path, n_rows=12, top=2, pool=4, randoms=0)
    summary = label(folder.run_dir, folder.traces)
    assert len(summary.records) == 2
    for record in summary.records:
        assert record["verdict"]["text"].startswith(("not scored: ", "no label: no_words"))


def test_empty_texts_are_left_out_and_counted(tmp_path: Path, folder_of: Callable[..., Any]) -> None:
    def text(row: int, scores: np.ndarray) -> str:
        return "" if row % 3 == 0 else f"{'high' if scores[0] > 0 else 'low'} number{'abc'[row % 3]} {row} {row * 7}"

    folder = folder_of(tmp_path, directions=1, text=text)
    (record,) = label(folder.run_dir, folder.traces, text="input", group_by="id").records
    assert record["left_out"]["positive"]["no_text"] > 0
    assert record["keywords"]["positive"][0] == "high"
