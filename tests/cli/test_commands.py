"""Law: results go to stdout, everything else to stderr; ``--json`` is one object; what goes wrong has an exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Command = Callable[..., Any]


def test_the_main_job(skillaxes: Command, sample: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = ("run", sample / "activations.zarr", run_dir, "--traces", sample / "traces.jsonl", "-k", 3, "--baselines", 2)
    ran = skillaxes(*job)
    assert ran.code == 0, ran.err
    *lines, last = ran.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split()[0] == "#"
    assert "separating words, not names" in ran.out
    assert "layer scale" in ran.out and "stability" in ran.out and "mean direction" in ran.out
    assert last == f"Report: {run_dir / 'report.html'}"  # a path is never broken
    written = {path.name for path in run_dir.iterdir() if not path.name.startswith(".")}
    assert written >= {
        "manifest.json", "directions.safetensors", "scores.zarr", "topk.parquet", "selection.parquet", "labels.jsonl",
        "report.html",
    }  # fmt: skip
    again = skillaxes(*job, "--json", "--quiet")
    assert again.code == 0 and again.err == ""
    shown = json.loads(again.out)
    assert len(shown["labels"]) == 3 and shown["manifest"]["status"] == "done"


def test_each_step_by_itself(skillaxes: Command, store: Path, traces: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    ran = skillaxes("discover", store, run_dir, "-k", 3, "--top", 4)
    assert ran.code == 0 and "read 1" in ran.err
    heads = "# variance residual halves norm shared certified +/-"
    assert ran.out.splitlines()[0].split() == heads.split()
    assert all(len(line) <= 80 for line in ran.out.splitlines()[:6])
    ran = skillaxes("label", run_dir, "--traces", traces, "--dry-run", "-q")
    assert ran.code == 0 and "about 0.00 dollars" in ran.out
    assert not (run_dir / "labels.jsonl").exists()
    assert skillaxes("label", run_dir, "--traces", traces, "--baselines", 2).code == 0
    assert skillaxes("report", run_dir).out.startswith("Report: ")
    assert json.loads(skillaxes("report", run_dir, "--json").out) == {"report": str(run_dir / "report.html")}
    assert skillaxes("export", run_dir, tmp_path / "axes.npz").code == 0
    ran = skillaxes("apply", store, tmp_path / "applied", "--directions", run_dir / "directions.safetensors", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["reads"] <= 2


def test_ingest_and_inspect(skillaxes: Command, small_matrix: Callable[..., np.ndarray], tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", small_matrix().astype(np.float16))
    store = tmp_path / "s.zarr"
    about = ("--layer-ids", "3,7,11", "--hidden", 8, "--token-range", "1:9")
    ran = skillaxes("ingest", tmp_path / "rows.npy", store, *about)
    assert ran.code == 0 and "120 x 24 float16" in ran.out and "verified" in ran.out
    found = json.loads(skillaxes("inspect", store, "--json", "-q").out)
    assert found["attributes"]["layer_ids"] == [3, 7, 11]
    assert found["attributes"]["token_range"] == [1, 9]
    shown = skillaxes("inspect", store, "--scan")
    assert shown.code == 0 and "120 x 24" in shown.out and "1 to 8" in shown.out and "unknown" in shown.out


def test_a_dry_run_does_nothing(skillaxes: Command, store: Path, traces: Path, tmp_path: Path) -> None:
    ran = skillaxes("discover", store, tmp_path / "run", "-k", 3, "--dry-run")
    assert ran.code == 0 and "120 rows x 24 columns" in ran.out and "memory" in ran.out
    plan = json.loads(skillaxes("discover", store, tmp_path / "run", "-k", 3, "--dry-run", "--json").out)
    assert plan["n_rows"] == 120
    assert skillaxes("run", store, tmp_path / "run", "-k", 3, "--traces", traces, "--dry-run").code == 0
    assert not (tmp_path / "run").exists()


def test_version_and_help(skillaxes: Command) -> None:
    assert skillaxes("--version").out.startswith("skillaxes")
    ran = skillaxes("--help")
    assert ran.code == 0 and all(len(line) <= 80 for line in ran.out.splitlines())
    assert "..." not in ran.out.split("Commands:")[1]


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "skillaxes: interrupted"),
        (OSError(28, "No space left on device", "x"), 1, "skillaxes: [Errno 28] No space left on device: 'x'"),
        (ValueError("two\nlines"), 1, "skillaxes: unexpected ValueError: two lines (SKILLAXES_DEBUG=1 shows where)"),
        (MemoryError(), 1, "skillaxes: unexpected MemoryError: (SKILLAXES_DEBUG=1 shows where)"),
    ],
)
def test_failures_are_one_line(
    skillaxes: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    monkeypatch.setattr("skillaxes.doctor.examine", _raising(error))
    ran = skillaxes("doctor")
    assert (ran.code, ran.out, ran.err) == (code, "", line + "\n")


def test_an_early_stop_has_its_own_code(skillaxes: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from skillaxes.errors import StoppedEarly

    monkeypatch.setattr("skillaxes.doctor.examine", _raising(StoppedEarly("stopped; run the same command again")))
    assert skillaxes("doctor").code == 75


def test_debug_shows_where(skillaxes: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLAXES_DEBUG", "1")
    monkeypatch.setattr("skillaxes.doctor.examine", _raising(ValueError("odd")))
    ran = skillaxes("doctor")
    assert ran.code == 1 and "Traceback" in ran.err and "in fail" in ran.err


def test_doctor_says_of_each_road_whether_it_would_be_taken(skillaxes: Command) -> None:
    ran = skillaxes("doctor", "--json")
    findings = {(f["group"], f["name"]): f for f in json.loads(ran.out)["findings"]}
    for path in ("fused kernel", "CuPy read", "GPUDirect", "pinned staging"):
        finding = findings["read path", path]
        assert finding["ok"] is True or finding["value"], path
    assert findings["software", "torch"]["ok"]
    shown = skillaxes("doctor")
    assert shown.code == 0 and all(len(line) <= 80 for line in shown.out.splitlines())


def test_doctor_names_a_scratch_folder_that_cannot_be_used(skillaxes: Command, tmp_path: Path) -> None:
    findings = json.loads(skillaxes("doctor", "--scratch", tmp_path / "no", "--json").out)["findings"]
    scratch = next(finding for finding in findings if finding["name"] == "scratch")
    assert scratch["ok"] is False and "--scratch" in scratch["value"]
