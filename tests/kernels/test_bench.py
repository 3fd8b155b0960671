"""The law: the benchmarks of the kernels run, check before they time, and keep what they measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bench.kernels import contestants, gpu, roofline


def test_tiny_run_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "gpu.jsonl"
    command = ["--tiny", "--device", "cpu", "--no-compile", "--results", str(results)]
    assert gpu.main(command) == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert {line["measurement"] for line in lines} == {"copy", "project", "accumulate"}
    assert all(line["values"]["seconds"]["n"] >= 5 for line in lines)
    assert {"commit", "machine", "versions", "command"} <= set(lines[0])
    assert "skillaxes on the CPU" in capsys.readouterr().out
    assert gpu.main(command) == 0
    assert len(results.read_text().splitlines()) == 2 * len(lines)


def test_a_wrong_result_gets_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_a_hair(inputs: contestants.Inputs, compiled: bool):
        return {"wrong": lambda: ((inputs.panel.float() - inputs.shift) @ inputs.directions * 1.001, None)}

    monkeypatch.setattr(contestants, "projectors", off_by_a_hair)
    results = tmp_path / "gpu.jsonl"
    assert gpu.main(["--tiny", "--device", "cpu", "--no-compile", "--results", str(results)]) == 1
    wrong = [line for line in map(json.loads, results.read_text().splitlines()) if line["case"].get("who") == "wrong"]
    assert wrong and all("failed" in line["values"] and "seconds" not in line["values"] for line in wrong)


def test_time_that_is_over_is_said(tmp_path: Path) -> None:
    results = tmp_path / "gpu.jsonl"
    assert gpu.main(["--tiny", "--device", "cpu", "--no-compile", "--seconds", "0", "--results", str(results)]) == 0
    assert "out of time" in results.read_text()


def test_without_a_card_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "needs a driver and a CUDA build of torch" in capsys.readouterr().err


@pytest.mark.gpu
def test_tiny_run_on_the_card(tmp_path: Path) -> None:
    assert gpu.main(["--tiny", "--results", str(tmp_path / "gpu.jsonl")]) == 0


def test_roofline_is_the_one_that_is_kept() -> None:
    assert Path(roofline.__file__).with_name("ROOFLINE.md").read_text() == roofline.tables()


def test_roofline_of_a_half_precision_read() -> None:
    job, card = roofline.Job(1_000_000, 30_720), roofline.CARDS[1]
    project = roofline.stages(job, card)[2]
    assert project.bound == "bytes" and project.seconds == pytest.approx(61.44e9 / 3.35e12)
    assert roofline.stages(roofline.Job(500_000, 30_720, itemsize=4), card)[2].bound == "operations"
    assert roofline.job_seconds(roofline.Job(10_000_000, 4_096), card, "hbm") is None
