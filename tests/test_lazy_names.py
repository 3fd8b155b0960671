"""Law: every public name of a package is loaded from its module at the first use, and only then; others are refused."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["skillaxes", "skillaxes.labeling", "skillaxes.ingest", "skillaxes_kernels"])
def test_every_public_name_is_there(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_a_submodule_does_not_hide_the_name_that_it_defines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "toy_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from skillaxes import lazy_names\n__getattr__ = lazy_names(__name__, {'one': 'one'})"
    )
    (package / "one.py").write_text("def one(): return 1")
    monkeypatch.syspath_prepend(tmp_path)
    toy = import_module("toy_package")
    assert "toy_package.one" not in sys.modules
    assert toy.one() == toy.one() == 1
