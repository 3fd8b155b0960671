"""The law: what doctor says of a machine is what a job there would find."""

from __future__ import annotations

import pytest

from skillaxes import doctor
from skillaxes_kernels.backends import triton as fused


def test_the_c_compiler_is_the_one_that_kernels_are_launched_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda distribution: "3.7.1")
    monkeypatch.delenv("CC", raising=False)
    for there, ok in (("cc", False), ("gcc", True), ("clang", True)):
        monkeypatch.setattr("shutil.which", lambda name, there=there: f"/bin/{name}" if name == there else None)
        found = doctor._triton()
        assert found.ok is ok is (fused.c_compiler() is not None)
        assert ("no C compiler" in found.value) is not ok
