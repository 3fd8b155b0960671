"""Law: a format is a reader and a line in READERS; the help and the refusals list what stands there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest

from skillaxes.errors import SourceError
from skillaxes.ingest import ingest, open_source, readers
from skillaxes.ingest.matrix import Matrix, Values, ViewMatrix
from skillaxes.ingest.readers import READERS, Reader
from skillaxes.ingest.trace_ids import ID_READERS
from skillaxes.store import open_store


def test_every_reader_is_there() -> None:
    suffixes = [suffix for reader in READERS for suffix in reader.suffixes]
    assert len(set(suffixes)) == len(suffixes) and all(suffix == suffix.lower() for suffix in suffixes)
    for reader in READERS:
        assert callable(resolve_name(reader.arrays))
        assert reader.trace_ids is None or callable(resolve_name(reader.trace_ids))


def test_the_help_lists_every_format(skillaxes: Callable[..., Any]) -> None:
    shown = " ".join(skillaxes("ingest", "--help").out.split())
    assert all(f"{reader.suffixes[0]} ({reader.content})" in shown for reader in READERS)
    assert all(suffix in shown for suffix in ID_READERS)


def test_the_refusal_lists_every_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.docx").touch()
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path / "x.docx")
    assert all(suffix in str(caught.value) for reader in READERS for suffix in reader.suffixes)


def test_listing_the_formats_loads_nothing_heavy() -> None:
    code = "import sys, skillaxes.ingest.readers, skillaxes.ingest.trace_ids; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def read_toy(path: Path) -> dict[str, Matrix]:
    return {"": ViewMatrix.of(Values.of(np.loadtxt(path, delimiter=";", ndmin=2)), "", lambda: None)}


def read_toy_ids(path: Path, column: str | None) -> list[str | None]:
    return [f"{column}-{row}" for row in range(len(path.read_text().splitlines()))]


def test_a_line_in_the_table_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toy_format", sys.modules[__name__])
    toy = Reader((".toy",), "semicolons", "toy_format:read_toy", "toy_format:read_toy_ids")
    monkeypatch.setattr(readers, "READERS", (*READERS, toy))
    (tmp_path / "x.toy").write_text("1;2\n3;4.5\n")
    ingest(tmp_path / "x.toy", tmp_path / "s.zarr", id_field="row")
    store = open_store(tmp_path / "s.zarr")
    np.testing.assert_array_equal(store.read_rows(0, 2), [[1, 2], [3, 4.5]])
    assert store.trace_ids([0, 1]) == ["row-0", "row-1"]
