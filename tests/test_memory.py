"""The law: sizes are read as people write them, and the budget is what the machine grants, shared on one host."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillaxes import memory
from skillaxes.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 << 20),
        ("2GiB", 2 << 30),
        ("2G", 2 * 10**9),
        ("2gb", 2 * 10**9),
        (" 1.5 GiB ", 3 << 29),
        ("600000000", 600_000_000),
        ("1TiB", 1 << 40),
        ("100k", 100_000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "2 GiB extra", "1e9", "two", "2Ei", "1,5G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        memory.parse_size(text)


@given(st.integers(0, 1 << 50))
def test_a_size_for_people(size: int) -> None:
    """What is shown can be read back, within its rounding."""
    again = memory.parse_size(memory.show(size))
    assert abs(again - size) <= 0.05 * size + 1


def test_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "granted", lambda: 10 << 30)
    assert memory.budget(None) == int(0.6 * (10 << 30))
    assert memory.budget(None, 4) == int(0.6 * (10 << 30) / 4), "processes on one host share"
    assert memory.budget(None, 1000) == memory.LEAST
    assert memory.budget(600 << 20) == 600 << 20
    with pytest.raises(UsageError, match="511 MiB"):
        memory.budget(511 << 20)


def test_what_is_granted_is_the_tightest_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"no": "max\n", "tight": f"{3 << 30}\n", "loose": f"{900 << 30}\n", "absurd": "9223372036854771712\n"}
    files = []
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
        files.append(tmp_path / name)
    monkeypatch.setattr(memory, "_cgroup_files", lambda: [*files, tmp_path / "missing"])
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.granted() == min(3 << 30, physical)


def test_what_is_held() -> None:
    assert 0 < memory.resident() <= memory.peak()
    before = memory.resident()
    block = np.ones(1 << 28, np.uint8)
    assert memory.peak() >= memory.resident() >= before + block.nbytes // 2
