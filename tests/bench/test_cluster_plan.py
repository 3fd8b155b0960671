"""The law: the plan of ``bench/NOTES.md`` for a store that is not there is what the command beside it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import cluster_plan

NOTES = Path(cluster_plan.__file__).with_name("NOTES.md").read_text(encoding="utf-8").splitlines()
SHAPE = "--rows 10000000 --columns 122880 --layers 30 --gpu --reads 2"
STAGED = "--rate storage=5e9 --rate storage-total=1e15 --rate network=25e9"


@pytest.mark.parametrize(("processes", "rates"), [("1 8 64 512", ""), ("8 64 512", STAGED)])
def test_the_notes_are_what_the_command_prints(processes: str, rates: str, capsys: pytest.CaptureFixture[str]) -> None:
    cluster_plan.main([*SHAPE.split(), "--processes", *processes.split(), *rates.split()])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(processes.split())
    for row in rows:
        assert row in NOTES


def test_limits_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    cluster_plan.main([*SHAPE.split(), "--processes", "8"])
    out = capsys.readouterr().out
    assert "handed over last: 97.3 MB summed, 47.2 MB sent" in out
    assert "storage becomes the limit at 32 processes" in out
    assert "traffic becomes the limit at 128 processes" in out
