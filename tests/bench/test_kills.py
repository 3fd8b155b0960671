"""The law: kills at random moments leave nothing behind in what a job has found. The short form of ``bench.kills``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import table
from bench.kills import Kills, differing, run
from bench.suites.workspace import Options
from bench.synthetic import Recipe


@pytest.mark.cluster
@pytest.mark.parametrize("processes", [1, 2])
def test_kills(tmp_path: Path, processes: int) -> None:
    options = Options(results=tmp_path / "results.jsonl", threads=1, temp=tmp_path, components=4, top=5, quiet=True)
    kills = Kills(kills=3, interval=0.1, patience=1.0, processes=processes, words=("--max-reads", "6"))
    (line,) = run(options, Recipe(16000, 2048, spectrum="flat"), kills)
    assert line["values"]["kills"] >= 3 and line["values"]["differing"] == []
    assert json.loads(options.results.read_text())["case"]["processes"] == processes
    assert "| none |" in table.render([line])
    nothing_repeated = {**line, "values": {**line["values"], "repeated_seconds": {}}}
    assert f"| before any work | {processes} | {line['values']['kills']} |" in table.render([nothing_repeated])


def test_what_differs_is_found(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "scores.zarr").mkdir(parents=True)
        (tmp_path / name / "labels.jsonl").write_text("same")
        (tmp_path / name / "scores.zarr" / "chunk").write_text(name)
    (tmp_path / "one" / "topk.parquet").write_text("here only")
    assert differing(tmp_path / "one", tmp_path / "two") == ["topk.parquet", "scores.zarr/chunk"]
    (tmp_path / "two" / "checkpoint").mkdir()
    assert differing(tmp_path / "one", tmp_path / "two")[-1] == "checkpoint is left behind"
