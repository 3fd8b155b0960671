"""The law: what cannot be used is refused in one line that says what was given, what is needed and what to type.

Nothing half-written stays, and what was there before is not touched.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.matrices import power_law, write_store

import skillaxes
from skillaxes.errors import RunFolderError, SkillaxesError, StoreError, UsageError
from skillaxes.run_folder.schema import MANIFEST

N, D = 60, 24


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", power_law(N, D), chunk_rows=7)


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"components": 25}, r"--components 25: .* 60 rows x 24 columns has at most 24 .* type --components 24 or less"),
    ({"components": 0}, r"--components 0: needs .* at least 1"),
    ({"components": -1}, r"--components -1: needs .* at least 1"),
    ({"components": 2.5}, r"--components 2.5: needs whole numbers"),
    ({"components": "ten"}, r"--components ten: needs whole numbers"),
    ({"components": True}, r"--components True: needs whole numbers"),
    ({"top": -1}, r"--top -1: needs .* at least 1"),
    ({"top": 0}, r"--top 0: needs .* at least 1"),
    ({"top": 31}, r"--top 31: both sides together would need 62 of 60 rows, .* overlap; type --top 30 or less"),
    ({"pool": -1}, r"--pool -1: needs .* at least 0"),
    ({"max_reads": 1}, r"--max-reads 1: needs .* at least 2"),
    ({"seed": -1}, r"--seed -1: needs .* at least 0"),
    ({"solver": "svd"}, r"--solver svd: is not one of auto, krylov, incremental, covariance"),
    ({"rank_by": "norm"}, r"--rank-by norm: is not one of raw-cosine, centered-cosine, projection"),
    ({"scale": "unit"}, r"--scale unit: is not one of none, layer-rms, column-std"),
    ({"bad_rows": "drop"}, r"--bad-rows drop: is not one of error, skip"),
    ({"tolerance": 0}, r"--tolerance 0: needs a number between 0 and 1"),
    ({"tolerance": float("nan")}, r"--tolerance nan: needs a number between 0 and 1"),
    ({"tolerance": "small"}, r"--tolerance small: needs a number"),
    ({"layers": ()}, r"--layers: needs at least one layer id"),
    ({"layers": ("a",)}, r"--layers a: needs whole numbers"),
    ({"device": "tpu"}, r"unknown device 'tpu': use auto, cpu"),
    ({"memory": 511 << 20}, r"--memory 511 MiB: .* at least 512MiB"),
    ({"memory": "much"}, r"'much' is not a size: .* 2GiB"),
    ({"component": 3}, r"unknown option 'component': the options are .*components"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=[str(options) for options, _ in OPTIONS])
def test_options(store: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    for run_dir in (None, tmp_path / "run"):
        with pytest.raises(SkillaxesError, match=message) as caught:
            skillaxes.discover(store, run_dir, **options)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
    with pytest.raises(SkillaxesError, match=message):
        skillaxes.plan(store, **options)
    assert not (tmp_path / "run").exists()


def test_options_of_other_libraries(store: Path) -> None:
    """Whole numbers of numpy are whole numbers; a size may be a text; layer ids are a set."""
    found = skillaxes.discover(store, components=np.int64(3), top=np.int32(4), memory="1GiB", seed=np.uint8(1))
    assert found.directions.components.shape == (3, D)
    assert found.manifest["config"]["memory"] == 1 << 30
    assert skillaxes.DiscoverConfig().replaced(components=np.int64(3)).solver.components == 3


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_hardly_a_row(tmp_path: Path, rows: int) -> None:
    store = write_store(tmp_path / "few", power_law(rows, 8))
    if rows == 1:
        with pytest.raises(UsageError, match=r"1 row .* needs at least 2 rows"):
            skillaxes.discover(store, components=1, top=1)
        return
    with pytest.raises(UsageError, match="type --top 1 or less"):
        skillaxes.discover(store, components=1, top=2)
    assert skillaxes.discover(store, components=1, top=1).topk.num_rows == 2


def test_no_store(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(StoreError):
            skillaxes.discover(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder with its time and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def finished(store: Path, tmp_path: Path) -> Path:
    skillaxes.discover(store, tmp_path / "run", components=3)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"components": 4}, "--components was 3, now 4"),
        ({"components": 3, "seed": 1}, "--seed was 0, now 1"),
        ({"components": 3, "top": 5}, "--top was 10, now 5"),
        ({"components": 3, "tolerance": 1e-4}, r"--tolerance was 0.001, now 0.0001"),
        ({"components": 3, "rank_by": "projection"}, "--rank-by was raw-cosine, now projection"),
        ({"components": 3, "solver": "krylov"}, "--solver was auto, now krylov"),
        ({"components": 4, "seed": 1}, "--components was 3, now 4; --seed was 0, now 1"),
    ],
)
def test_another_configuration(store: Path, finished: Path, options: dict[str, Any], difference: str) -> None:
    before = snapshot(finished)
    with pytest.raises(RunFolderError, match=rf"holds another job \({difference}\): .*--overwrite") as caught:
        skillaxes.discover(store, finished, **options)
    assert caught.value.exit_code == 2
    assert snapshot(finished) == before


def test_another_store(tmp_path: Path, finished: Path) -> None:
    before = snapshot(finished)
    other = write_store(tmp_path / "other", power_law(N, D, seed=9))
    with pytest.raises(RunFolderError, match="another store"):
        skillaxes.discover(other, finished, components=3)
    assert snapshot(finished) == before


def test_another_part_of_the_store(tmp_path: Path) -> None:
    """Layers chosen when the store is opened count as much as those chosen by an option."""
    store = write_store(tmp_path / "store", power_law(N, D), layer_ids=(1, 2, 3), hidden=8)
    skillaxes.discover(skillaxes.open_store(store, layers=[2]), tmp_path / "run", components=3)
    with pytest.raises(RunFolderError, match="--layers was 2, now"):
        skillaxes.discover(store, tmp_path / "run", components=3)
    again = skillaxes.discover(store, tmp_path / "run", components=3, layers=[2])
    assert again.directions.components.shape == (3, 8)


def test_a_finished_job_is_not_done_twice(
    store: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, device, scratch and the place and chunking of the store don't count."""
    before = snapshot(finished)
    first = skillaxes.load(finished)
    staged = Path(shutil.copytree(store, tmp_path / "staged"))
    chunked = write_store(tmp_path / "chunked", power_law(N, D), chunk_rows=60)
    monkeypatch.setattr("skillaxes.run.driver._run", lambda *_: pytest.fail("it was computed again"))
    for source, options in (
        (store, {}),
        (store, {"memory": 2 << 30, "device": "cpu", "scratch": tmp_path}),
        (staged, {}),
        (chunked, {}),
    ):
        found = skillaxes.discover(source, finished, components=3, **options)
        np.testing.assert_array_equal(found.directions.components, first.directions.components)
        assert found.topk.equals(first.topk)
        assert found.run_dir == finished
    assert snapshot(finished) == before


@pytest.mark.parametrize("status", ["running", "failed", "stopped"])
def test_an_unfinished_job_is_done_again(store: Path, finished: Path, status: str) -> None:
    text = (finished / MANIFEST).read_text()
    (finished / MANIFEST).write_text(text.replace('"status": "done"', f'"status": "{status}"'))
    (finished / "topk.parquet").write_bytes(b"half")
    (finished / ".directions.safetensors.partial").write_bytes(b"half")
    found = skillaxes.discover(store, finished, components=3)
    assert found.manifest["status"] == "done"
    assert skillaxes.load(finished).topk.equals(found.topk)
    assert not list(finished.glob(".*partial"))


def test_overwrite(store: Path, finished: Path) -> None:
    (finished / "labels.jsonl").write_text("{}\n")
    (finished / "report.html").write_text("old")
    (finished / "notes.txt").write_text("mine")
    found = skillaxes.discover(store, finished, components=4, overwrite=True)
    assert skillaxes.load(finished).directions.components.shape == (4, D)
    assert found.manifest["config"]["components"] == 4
    left = {path.name for path in finished.iterdir()}
    assert "notes.txt" in left, "what is not ours stays"
    assert not {"labels.jsonl", "report.html"} & left, "labels of other directions are gone"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format_version": 99, "command": "discover"}'])
def test_a_damaged_manifest(store: Path, finished: Path, content: str) -> None:
    (finished / MANIFEST).write_text(content)
    with pytest.raises(RunFolderError):
        skillaxes.discover(store, finished, components=3)
    with pytest.raises(RunFolderError):
        skillaxes.load(finished)


def test_somebody_elses_manifest(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / MANIFEST).write_text('{"name": "a web page", "start_url": "/"}')
    before = snapshot(folder)
    for overwrite in (False, True):
        with pytest.raises(RunFolderError):
            skillaxes.discover(store, folder, components=3, overwrite=overwrite)
    assert snapshot(folder) == before


def test_a_folder_that_is_no_run_folder(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("...")
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match="it is no run folder"):
            skillaxes.discover(store, folder, components=3, overwrite=overwrite)
    with pytest.raises(RunFolderError, match="is a file"):
        skillaxes.discover(store, folder / "chapter.tex", components=3)
    assert [path.name for path in folder.iterdir()] == ["chapter.tex"]
    (tmp_path / "empty").mkdir()
    skillaxes.discover(store, tmp_path / "empty", components=3)


def test_a_failed_job_says_so_and_leaves_no_results(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure of ours keeps the manifest, with its status and the stages so far; the next attempt starts afresh."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    with monkeypatch.context() as broken:
        broken.setattr("skillaxes.run.driver.ranked", fail)
        with pytest.raises(ZeroDivisionError):
            skillaxes.discover(store, tmp_path / "run", components=3)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {MANIFEST}
    assert '"status": "failed"' in (tmp_path / "run" / MANIFEST).read_text()
    with pytest.raises(RunFolderError):
        skillaxes.load(tmp_path / "run")
    found = skillaxes.discover(store, tmp_path / "run", components=3)
    assert found.manifest["status"] == "done"


@pytest.mark.parametrize("missing", ["topk.parquet", "directions.safetensors", MANIFEST])
def test_a_run_folder_that_lost_a_file(finished: Path, missing: str) -> None:
    for damage in (lambda path: path.write_bytes(b"PAR1 half"), lambda path: path.unlink()):
        damage(finished / missing)
        with pytest.raises(RunFolderError, match=r"again with --overwrite|skillaxes discover"):
            skillaxes.load(finished)


def test_a_run_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is no run folder: .*skillaxes discover STORE"):
        skillaxes.load(tmp_path / "nothing")
