"""Law: a figure is kept with everything it depends on, lines are only ever added, and nothing names a folder of this
machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import provenance, results
from bench.results import Book, load, quantiles
from bench.sizes import gigabytes


def test_lines_carry_their_origin(tmp_path: Path) -> None:
    book = Book(tmp_path / "r.jsonl", "peers", "python -m bench peers", 2)
    line = book.append("ours", {"rows": 3}, {"seconds": quantiles([1.0])})
    assert line == json.loads((tmp_path / "r.jsonl").read_text())
    assert {"commit", "dirty", "machine", "versions", "threads", "command", "time", "run"} <= set(line)
    assert line["versions"]["torch"]
    assert line["machine"]["cpu"] and line["machine"]["cores"] >= 1


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    for suite in ("peers", "limits", "peers"):
        Book(path, suite, "", 1, run=f"{suite}-{path.exists()}").append("x", {}, {})
    before = path.read_bytes()
    Book(path, "peers", "", 1, run="newest").append("y", {}, {})
    assert path.read_bytes().startswith(before)
    assert len(load(path)) == 4
    assert [line["measurement"] for line in load(path, suite="peers")] == ["x", "x", "y"]
    assert [(line["suite"], line["run"]) for line in load(path, run="last")] == [
        ("limits", "limits-True"),
        ("peers", "newest"),
    ]


def test_folders_of_this_machine_are_hidden(tmp_path: Path) -> None:
    book = Book(tmp_path / "r.jsonl", "peers", "", 1, {str(tmp_path): "$TEMP"})
    book.append("x", {}, {"message": f"{tmp_path}/a.zarr is full"})
    text = (tmp_path / "r.jsonl").read_text()
    assert str(tmp_path) not in text and "$TEMP/a.zarr is full" in text
    assert provenance.command([str(provenance.ROOT / "x"), f"{tmp_path}/y"], {str(tmp_path): "$TEMP"}) == "./x $TEMP/y"


def test_quantiles() -> None:
    assert quantiles([3.0, 1.0, 2.0, 5.0, 4.0]) == {"n": 5, "min": 1.0, "p25": 2.0, "p50": 3.0, "p75": 4.0, "max": 5.0}
    assert quantiles([2.0, 4.0])["p50"] == 3.0
    with pytest.raises(ValueError, match="no samples"):
        quantiles([])


def test_the_checkout_s_own_results_do_not_make_it_dirty() -> None:
    assert results.DEFAULT.is_relative_to(provenance.ROOT / "bench" / "results")


def test_sizes() -> None:
    assert (gigabytes(1.234e9), gigabytes(14.9e9)) == ("1.23 GB", "14.9 GB")
