"""The law: an error in a kernel cannot hide from its tests. Each planted one must be noticed."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")


@pytest.mark.parametrize(("kind", "at_least"), [("laws", 25), ("compiler", 4)])
def test_every_mutant_is_noticed(interpreted, kind: str, at_least: int) -> None:
    done = interpreted("mutants.py", kind, interpret=kind == "laws")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert len(lines) >= at_least and all("noticed by" in line for line in lines)
