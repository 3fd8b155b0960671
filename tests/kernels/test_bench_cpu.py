"""The law: the benchmark of the products for CPUs runs, checks before it times, and keeps what it measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.kernels import cpu

TINY = ["--rows", "40", "--columns", "300", "--directions", "20", "--repeat", "1", "--tiny"]


def test_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.jsonl"
    assert cpu.main([*TINY, "--results", str(results)]) == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["case"]["who"] for line in lines] == list(cpu.BACKENDS)
    assert all("declined" in line["values"] or line["values"]["gflops"]["project"] > 0 for line in lines)
    assert "seconds" in lines[-1]["values"] and {"commit", "machine", "command"} <= set(lines[0])
    assert "| cpu | " in capsys.readouterr().out


def test_a_wrong_result_gets_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_error", lambda *arguments: 1e-3)
    results = tmp_path / "results.jsonl"
    assert cpu.main([*TINY, "--results", str(results)]) == 1
    values = json.loads(results.read_text().splitlines()[-1])["values"]
    assert values == {"failed": "error 1.0e-03"}
