"""The law: the benchmark for a card runs whole, reads what zarr reads before it times a read, judges every answer
before it times a job, and ends in time.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.gpu import __main__ as gpu
from bench.gpu import jobs, reads
from bench.gpu.jobs import residual
from bench.judge import Answer


def tiny(results: Path, *more: str) -> tuple[int, list[dict]]:
    scratch = results.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    command = ["--tiny", "--device", "cpu", "--no-compile", "--results", str(results), "--scratch", str(scratch)]
    code = gpu.main([*command, *more])
    assert not list(scratch.iterdir()) and str(scratch) not in results.read_text()
    return code, [json.loads(line) for line in results.read_text().splitlines()]


def test_tiny_run_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = tiny(tmp_path / "gpu.jsonl")
    assert code == 0
    assert {line["measurement"] for line in lines} == {"copy", "project", "accumulate", "read", "job"}
    timed = [line for line in lines if line["measurement"] == "read"]
    assert len(timed) == 12 and all("seconds" in line["values"] for line in timed)
    for source in reads.SOURCES:
        assert sum(source in line["case"]["who"] for line in timed) == 4
    solved = {line["case"]["who"]: line["values"] for line in lines if line["measurement"] == "job"}
    assert solved["skillaxes"]["error"] <= 1e-4 and solved["pca_lowrank"]["rows_shared"] >= 0.8
    assert "pca_lowrank" in capsys.readouterr().out


def test_other_rows_than_zarr_reads_get_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "checksum", lambda path: 1)
    code, lines = tiny(tmp_path / "gpu.jsonl", "--only", "reads")
    assert code == 1
    found = [line["values"] for line in lines if line["measurement"] == "read"]
    assert found and all("failed" in values and "seconds" not in values for values in found)


def test_directions_that_are_none_get_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.zeros((jobs.K, jobs.TOP), np.int64)
    wrong = Answer(np.eye(jobs.K, 64, dtype=np.float32), rows, rows)
    monkeypatch.setattr(jobs, "_lowrank", lambda source, device: wrong)
    code, lines = tiny(tmp_path / "gpu.jsonl", "--only", "jobs")
    assert code == 1
    solved = {line["case"]["who"]: line["values"] for line in lines if line["measurement"] == "job"}
    assert "seconds" in solved["skillaxes"] and "failed" in solved["pca_lowrank"]


def test_time_that_is_over_is_said(tmp_path: Path) -> None:
    code, lines = tiny(tmp_path / "gpu.jsonl", "--seconds", "0")
    assert code == 0
    assert {"out of time"} == {line["values"].get("skipped") for line in lines if line["measurement"] != "copy"}


def test_residuals_are_those_of_numpy(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 20)) * np.linspace(3, 1, 20) + 5
    np.save(tmp_path / "rows.npy", rows.astype(np.float16))
    exact = np.linalg.eigh(np.cov(rows.astype(np.float16).astype(np.float64).T))[1][:, ::-1].T
    assert residual(tmp_path / "rows.npy", exact[:4].copy(), torch.device("cpu")) <= 1e-10
    turned = exact[:1] + 0.01 * exact[1:2]
    assert 1e-4 < residual(tmp_path / "rows.npy", turned, torch.device("cpu")) < 0.01


@pytest.mark.gpu
def test_tiny_run_on_the_card(tmp_path: Path) -> None:
    command = ["--tiny", "--results", str(tmp_path / "gpu.jsonl"), "--scratch", str(tmp_path)]
    assert gpu.main(command) == 0
