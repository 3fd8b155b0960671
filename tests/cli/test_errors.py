"""Law: bad input gets one line on stderr that says what was given, what is needed and what to type, exit code 2, and
leaves nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Command = Callable[..., Any]
Matrix = Callable[..., np.ndarray]


def refused(ran: Any, *parts: str, code: int = 2) -> None:
    assert ran.code == code, ran
    assert ran.out == ""
    assert ran.err.startswith("skillaxes: ")
    assert ran.err.count("\n") == 1, ran.err
    for part in parts:
        assert part in ran.err, ran.err


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--components", 25], ["--components 25", "120 rows x 24 columns", "type --components 24 or less"]),
        (["--components", 0], ["--components 0", "at least 1"]),
        (["--top", 61], ["--top 61", "overlap", "type --top 60 or less"]),
        (["--top", -3], ["--top -3", "at least 1"]),
        (["--top", "many"], ["--top", "discover --help"]),
        (["--solver", "magic"], ["--solver magic", "auto, krylov, incremental, covariance"]),
        (["--scale", "odd"], ["--scale odd", "layer-rms"]),
        (["--rank-by", "luck"], ["--rank-by luck", "raw-cosine"]),
        (["--bad-rows", "eat"], ["--bad-rows eat", "skip"]),
        (["--tolerance", 3], ["--tolerance 3", "between 0 and 1"]),
        (["--layers", "3,x"], ["--layers 3,x", "for example 15,19"]),
        (["--layers", "99"], ["layer 99", "3, 7, 11"]),
        (["--memory", "much"], ["--memory", "'much'", "2GiB"]),
        (["--memory", "100MiB"], ["--memory 100 MiB", "512MiB"]),
        (["--device", "tpu"], ["'tpu'", "cuda"]),
        (["--sovler", "auto"], ["--sovler", "--solver"]),
    ],
)
def test_discover_refuses(skillaxes: Command, store: Path, tmp_path: Path, options: list, parts: list[str]) -> None:
    refused(skillaxes("discover", store, tmp_path / "run", *options), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="has a GPU")
def test_a_gpu_that_is_not_there_is_no_silent_cpu_run(skillaxes: Command, store: Path, tmp_path: Path) -> None:
    ran = skillaxes("discover", store, tmp_path / "run", "--device", "cuda")
    refused(ran, "--device cuda", "--device cpu")
    assert "CUDA build" in ran.err or "driver" in ran.err
    assert not (tmp_path / "run").exists()


def test_products_that_are_not_there(
    skillaxes: Command, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by the environment: no other is taken, and the doctor says the same."""
    monkeypatch.setattr("skillaxes_kernels.backends.native.offered", lambda: 0)
    for name, said in (("avx512", "name another, or none"), ("sse", "unknown; use one of amx, avx512, cpu")):
        monkeypatch.setenv("SKILLAXES_CPU_BACKEND", name)
        refused(skillaxes("discover", store, tmp_path / "run"), f"SKILLAXES_CPU_BACKEND={name}", said)
        assert f"SKILLAXES_CPU_BACKEND={name}" in skillaxes("doctor", "--json").out
    assert not (tmp_path / "run").exists()


def test_a_store_that_is_missing(skillaxes: Command, tmp_path: Path) -> None:
    refused(skillaxes("discover", tmp_path / "no.zarr", tmp_path / "run"), "no.zarr", "skillaxes ingest")
    assert not (tmp_path / "run").exists()


def test_a_store_of_a_wrong_shape(skillaxes: Command, tmp_path: Path) -> None:
    import zarr

    zarr.create_array(str(tmp_path / "flat.zarr"), shape=(40,), dtype="float32")
    refused(skillaxes("discover", tmp_path / "flat.zarr", tmp_path / "run"), "flat.zarr")
    zarr.create_group(str(tmp_path / "group.zarr"))
    refused(skillaxes("discover", tmp_path / "group.zarr", tmp_path / "run"), "group.zarr")
    refused(skillaxes("discover", tmp_path, tmp_path / "run"), str(tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_rows_are_named(
    skillaxes: Command, make_store: Callable[..., Path], small_matrix: Matrix, tmp_path: Path, value: float
) -> None:
    rows = small_matrix()
    rows[[17, 90], 5] = value
    store = make_store(rows)
    refused(skillaxes("discover", store, tmp_path / "run", "-k", 3, "-q"), "17", "90", "--bad-rows skip")
    assert not (tmp_path / "run").exists()
    ran = skillaxes("discover", store, tmp_path / "run", "--components", 3, "--bad-rows", "skip", "--json", "-q")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"]["bad"] == [17, 90]


def test_rows_of_zeros_are_counted_and_never_ranked(
    skillaxes: Command, make_store: Callable[..., Path], small_matrix: Matrix, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    rows = small_matrix()
    rows[[4, 5, 99]] = 0
    ran = skillaxes("discover", make_store(rows), tmp_path / "run", "--components", 3, "--top", 50, "--json", "-q")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"]["zero"] == 3
    listed = set(pq.read_table(tmp_path / "run" / "topk.parquet")["row"].to_pylist())
    assert not listed & {4, 5, 99}


def test_a_run_folder_of_another_configuration(skillaxes: Command, store: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert skillaxes("discover", store, run_dir, "--components", 3).code == 0
    before = (run_dir / "directions.safetensors").read_bytes()
    refused(skillaxes("discover", store, run_dir, "--components", 4), "--components was 3, now 4", "--overwrite")
    assert (run_dir / "directions.safetensors").read_bytes() == before
    how = ["--memory", "4GiB", "--device", "cpu"]  # how a job runs does not count; the process of all tests is large
    assert skillaxes("discover", store, run_dir, "--components", 3, *how).code == 0
    assert skillaxes("discover", store, run_dir, "--components", 4, "--overwrite").code == 0


def test_a_folder_that_is_no_run_folder(skillaxes: Command, store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    for overwrite in ([], ["--overwrite"]):
        refused(skillaxes("discover", store, tmp_path / "mine", "--components", 3, *overwrite), "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_fewer_traces_than_rows(skillaxes: Command, store: Path, traces: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(traces.read_text().splitlines(keepends=True)[:100]))
    refused(skillaxes("run", store, tmp_path / "run", "--traces", few), "100", "120", "few.jsonl")
    assert not (tmp_path / "run").exists()
    assert skillaxes("discover", store, tmp_path / "run", "--components", 3).code == 0
    refused(skillaxes("label", tmp_path / "run", "--traces", few, "-q"), "100", "120")
    assert not (tmp_path / "run" / "labels.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--traces", "none.jsonl"], ["none.jsonl"]),
        (["--labeler", "openai"], ["OPENAI_API_KEY", "--labeler keywords"]),
        (["--labeler", "oracle"], ["--labeler oracle", "keywords, openai"]),
        (["--pairs", -1], ["--pairs -1"]),
    ],
)
def test_run_refuses_before_it_computes(
    skillaxes: Command, store: Path, traces: Path, tmp_path: Path, options: list, parts: list[str]
) -> None:
    given = options if "--traces" in options else ["--traces", traces, *options]
    refused(skillaxes("run", store, tmp_path / "run", *given), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["label", "--traces", "x.jsonl"], ["report"], ["export", "x.npz"]])
def test_a_folder_without_a_run(skillaxes: Command, tmp_path: Path, command: list[str]) -> None:
    refused(skillaxes(command[0], tmp_path / "nothing", *command[1:]), "nothing", "skillaxes discover")


def test_usage(skillaxes: Command, tmp_path: Path) -> None:
    refused(skillaxes("dicsover"), "dicsover", "'discover'")
    refused(skillaxes("discover", "x"), "RUN_DIR", "discover --help")
    refused(skillaxes("apply", "x", "y"), "--directions")


def test_a_broken_source_leaves_no_store(skillaxes: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY garbage")
    refused(skillaxes("ingest", tmp_path / "broken.npy", tmp_path / "s.zarr", "-q"), "broken.npy")
    (tmp_path / "notes.docx").write_bytes(b"?")
    refused(skillaxes("ingest", tmp_path / "notes.docx", tmp_path / "s.zarr", "-q"), "notes.docx", ".npy")
    refused(skillaxes("ingest", tmp_path / "no.npy", tmp_path / "s.zarr", "-q"), "no.npy")
    assert not (tmp_path / "s.zarr").exists()
