"""Law: every benchmark runs, at tiny size, from the command line to its table, and leaves no store behind.

A peer whose library is not installed is reported as that; ours and plain torch must run.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import table
from bench.__main__ import SIZES, SUITES, main
from bench.peers import PEERS
from bench.results import load
from bench.suites import solvers
from bench.synthetic import Generator, Recipe


class Bench:
    """``python -m bench`` with results and temp folder of a test."""

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results.jsonl"
        self.temp = folder / "temp"
        self.temp.mkdir()

    def __call__(self, *words: str) -> list[dict[str, Any]]:
        shared = ("--results", str(self.results), "--temp", str(self.temp), "--threads", "1", "--repeat", "1")
        assert main([*words, *shared, "--quick", "--time-limit", "120"]) == 0
        assert not list(self.temp.iterdir())
        return load(self.results)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_peers(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    lines = {line["measurement"]: line for line in bench("peers", "--rows", "600", "--columns", "128", "--top", "5")}
    assert set(lines) == {peer.name for peer in PEERS} | {"ratios"}
    for peer in PEERS:
        values = lines[peer.name]["values"]
        if importlib.util.find_spec(peer.needs) is None:
            assert values["status"] == "not installed"
            continue
        assert values["status"] == "done", (peer.name, values)
        assert values["wall_seconds"]["p50"] > 0
        assert values["peak_memory_bytes"] > 20 << 20
        assert values["bytes_read"] > 600 * 128 * 2
        assert values["lists"] == 20
        assert values["error"] < 0.2
    for name in ("torch_expert", "skillaxes_python", "skillaxes_command"):
        values = lines[name]["values"]
        assert values["error"] < 1e-4
        assert values["overlap"] > 0.9
    assert lines["skillaxes_command"]["values"]["reads"] > 0
    assert lines["skillaxes_python"]["values"]["after_imports_seconds"]["p50"] > 0
    assert {"whole_process", "after_imports", "memory_share"} == set(lines["ratios"]["values"]["torch_expert"])
    text = capsys.readouterr().out
    assert "600 x 128 float16" in text and lines["ratios"]["commit"][:12] in text
    assert str(bench.temp) not in text + bench.results.read_text()


def test_a_peer_that_runs_out_of_memory_is_reported_as_that(bench: Bench) -> None:
    (line,) = bench("peers", "--rows", "64", "--columns", "32", "--peers", "torch_expert", "--memory-limit", "150MiB")
    assert line["values"]["status"] == "out of memory"
    assert line["values"]["peak_memory_bytes"] >= 150 << 20
    assert "out of memory" in table.render([line])


def test_limits(bench: Bench) -> None:
    lines = bench("limits", "--rows", "600", "--columns", "128", "--panels", "32,64")
    kinds = {line["measurement"] for line in lines}
    assert kinds == {"read", "memory", "convert", "project", "accumulate", "job"}
    job = lines[-1]["values"]
    for quantile in ("floor_median", "floor_best"):
        floor = job[quantile]
        assert floor["floor"] > 0
        assert floor["engine_multiple"] == pytest.approx(floor["engine_seconds"] / floor["floor"])
        assert {"read", "convert", "project", "accumulate"} == set(floor["parts"])
    assert job["floor_best"]["floor"] <= job["floor_median"]["floor"]
    assert job["error"] < 1e-4
    forms = {line["values"]["form"] for line in lines if line["measurement"] == "project"}
    assert {form.split(",")[0] for form in forms} == {"float32", "bfloat16", "float16"}


def test_scaling(bench: Bench) -> None:
    lines = bench("scaling", "--rows", "300", "--columns", "64", "--factors", "1,2", "--memory", "auto")
    jobs = [line for line in lines if line["measurement"] == "job"]
    assert [(line["case"]["rows"], line["case"]["columns"]) for line in jobs] == [
        (300, 64), (600, 64), (300, 64), (300, 128),
    ]  # fmt: skip
    for line in lines:
        if line["measurement"] == "ratios":
            assert line["values"]["1"] == {"wall": 1.0, "engine": 1.0, "peak_memory": 1.0}
            assert set(line["values"]["2"]) == {"wall", "engine", "peak_memory"}


def test_solvers(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "smollm2-reasoning" / "activations.npy"
    real.parent.mkdir()
    np.save(real, torch.cat(list(Generator(Recipe(400, 80, seed=5)).blocks())).numpy())
    monkeypatch.setenv("SKILLAXES_SHARED_DATA", str(tmp_path))
    words = ("--spectra", "planted,real", "--reads", "2,3", "--solvers", "krylov,covariance", "--top", "5")
    lines = bench("solvers", "--rows", "500", "--columns", "96", *words)
    asked = [(line["case"]["spectrum"], line["case"]["solver"], line["case"]["max_reads"]) for line in lines]
    each = [("krylov", 2), ("krylov", 3), ("covariance", 2)]
    assert asked == [(spectrum, *rest) for spectrum in ("planted", "real") for rest in each]
    for line in lines:
        assert line["values"]["status"] == "done", line["values"]
        assert line["values"]["captured"] == pytest.approx(1, abs=1e-3)


def test_solvers_on_the_sample_of_the_repository(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLAXES_SHARED_DATA", str(tmp_path))
    (line,) = bench("solvers", "--spectra", "real", "--solvers", "krylov", "--reads", "3")
    assert line["case"]["source"] == "bench/sample"
    assert line["values"]["error"] < 1e-4


def test_unknown_names_are_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="is not one of notebook"):
        bench("peers", "--peers", "abacus", "--rows", "10", "--columns", "4")
    with pytest.raises(ValueError, match="is not one of rows"):
        bench("scaling", "--axes", "depth", "--rows", "10", "--columns", "4")


def test_every_size_names_every_suite() -> None:
    assert all(set(sizes) == set(SUITES) for sizes in SIZES.values())


def test_real_data_is_found_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLAXES_SHARED_DATA", str(tmp_path))
    assert solvers.real_activations() is None
    file = tmp_path / "smollm2-reasoning" / "activations.npy"
    file.parent.mkdir()
    file.touch()
    assert solvers.real_activations() == file
