"""Law: a finished run folder is read by one reader for each file, which refuses what is damaged in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from skillaxes.errors import RunFolderError
from skillaxes.ranking.scores import SCORES
from skillaxes.run_folder.contents import read_contents
from skillaxes.run_folder.labels import read_labels
from skillaxes.run_folder.schema import RANKINGS, TOPK_COLUMNS


def test_histograms_count_every_row_and_agree_with_the_lists(run_folder: Path) -> None:
    contents = read_contents(run_folder)
    scores: Any = zarr.open_group(str(run_folder / "scores.zarr"), mode="r")
    n_rows = scores["norm"].shape[0]
    for direction in contents.directions:
        histograms = {name: found[direction.index] for name, found in contents.histograms.items()}
        for histogram in histograms.values():
            assert int(histogram.counts.sum()) == n_rows
            assert len(histogram.edges) == len(histogram.counts) + 1
            assert np.all(np.diff(histogram.edges) > 0)
            assert histogram.counts[0] > 0 and histogram.counts[-1] > 0
        rows = [row for end in direction.ends.values() for row in end]
        for name, values in (
            ("raw-cosine", [row.cosine for row in rows]),
            ("centered-cosine", [row.cosine_centered for row in rows]),
        ):
            edges = histograms[name].edges
            width = 2 / 4800  # of the finest bin
            assert edges[0] - width <= min(values) and max(values) <= edges[-1] + width
        # The most extreme rows lie in the outermost bins.
        edges, counts = histograms["raw-cosine"].edges, histograms["raw-cosine"].counts
        top = [row.cosine for row in direction.ends["positive"]]
        assert sum(value >= edges[-2] for value in top) >= min(len(top), int(counts[-1])) - 1


def test_every_ranking_can_be_read_back() -> None:
    assert RANKINGS.keys() == SCORES.keys()
    assert {score.topk_column for score in RANKINGS.values()} <= {column.name for column in TOPK_COLUMNS}


def test_lists_and_labels_come_with_their_direction(run_folder: Path) -> None:
    import pyarrow.parquet as pq

    contents = read_contents(run_folder)
    entries = pq.read_table(run_folder / "topk.parquet").to_pylist()
    for direction in contents.directions:
        assert direction.label is not None and direction.label["direction"] == direction.index
        assert direction.stats.index == direction.index
        for side, rows in direction.ends.items():
            listed = [entry for entry in entries if (entry["direction"], entry["side"]) == (direction.index, side)]
            assert [row.row for row in rows] == [entry["row"] for entry in sorted(listed, key=lambda e: e["position"])]
            assert [row.score(contents.rank_by) for row in rows] == [row.cosine for row in rows]


def test_without_scores_there_are_no_histograms(run_folder: Path) -> None:
    from shutil import rmtree

    rmtree(run_folder / "scores.zarr")
    assert read_contents(run_folder).histograms == {}


def test_a_text_may_hold_any_line_separator(tmp_path: Path) -> None:
    record = {"direction": 0, "configuration": "a", "analysis": "one\u2028two\x85three\rfour\x0bfive"}
    lines = [json.dumps({**record, "direction": index}, ensure_ascii=False) + "\n" for index in (0, 1)]
    (tmp_path / "labels.jsonl").write_text("".join(lines), encoding="utf-8", newline="")
    assert read_labels(tmp_path) == [record, {**record, "direction": 1}]


def test_no_labels(tmp_path: Path) -> None:
    assert read_labels(tmp_path) == []
    (tmp_path / "labels.jsonl").touch()
    assert read_labels(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"{}", b'"text"', b'{"direction": 0}', b'{"direction": "0", "configuration": "a"}', b'"\xff"'],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "labels.jsonl").write_bytes(b'{"direction": 0, "configuration": "a"}\n' + line + b"\n")
    with pytest.raises(RunFolderError, match=r"labels\.jsonl: line 2 is no label; .*--overwrite"):
        read_labels(tmp_path)
