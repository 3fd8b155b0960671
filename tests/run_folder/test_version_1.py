"""Law: a run folder of format version 1 is read as one of version 2 by every reader, and its job is done."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from support.matrices import power_law, write_store

import skillaxes
from skillaxes.errors import RunFolderError
from skillaxes.run_folder.contents import read_contents
from skillaxes.run_folder.manifest import mark_failed, read_manifest
from skillaxes.run_folder.schema import MANIFEST, TOPK
from skillaxes.run_folder.tables import read_table

K = 3


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and a run."""
    folder = tmp_path_factory.mktemp("job")
    write_store(folder / "store", power_law(300, 24))
    skillaxes.discover(folder / "store", folder / "run", components=K)
    return folder


def as_written(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))


@pytest.fixture
def old(job: Path, tmp_path: Path) -> Path:
    """The same run as version 1 wrote it, of a job of several processes."""
    import pyarrow.parquet as pq

    run_dir = Path(copytree(job / "run", tmp_path / "old"))
    manifest = as_written(run_dir)
    manifest["format_version"] = 1
    manifest["announcements"] = manifest.pop("diagnostics")
    for entry in manifest["directions"]:
        entry["settled"] = entry.pop("certified")
    for stage in manifest["stages"]:
        stage["handed_over"] = {"sum": 8, "broadcast": 4}
    manifest["plan"]["outlook"] = {"processes": 2, "handed_over": [{"sum": 8, "broadcast": 4}]}
    (run_dir / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    table = pq.read_table(run_dir / TOPK)
    names = ["settled" if name == "certified" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), run_dir / TOPK)
    return run_dir


def test_manifest(job: Path, old: Path) -> None:
    wanted = as_written(job / "run")
    for stage in wanted["stages"]:
        stage["bytes_sent"] = {"sum": 8, "broadcast": 4}
    wanted["plan"]["outlook"] = {"processes": 2, "bytes_sent": [{"sum": 8, "broadcast": 4}]}
    assert read_manifest(old) == wanted


def test_a_manifest_of_a_job_that_has_just_begun(tmp_path: Path) -> None:
    begun = {"format_version": 1, "command": "discover", "status": "running", "plan": {"outlook": None}}
    (tmp_path / MANIFEST).write_text(json.dumps(begun))
    assert read_manifest(tmp_path) == {**begun, "format_version": 2}
    mark_failed(tmp_path, "lost")
    assert as_written(tmp_path) == {**begun, "format_version": 2, "status": "failed", "failure": "lost"}


def test_tables_and_contents(job: Path, old: Path) -> None:
    new = job / "run"
    assert read_table(old, TOPK).equals(read_table(new, TOPK))
    assert read_contents(old).directions == read_contents(new).directions
    assert all(sum(one.stats.certified.values()) > 0 for one in read_contents(old).directions[:1])
    found = skillaxes.load(old)
    assert found.topk.equals(skillaxes.load(new).topk) and found.manifest["diagnostics"]


def test_the_same_job_is_done_and_another_is_refused(job: Path, old: Path) -> None:
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    found = skillaxes.discover(job / "store", old, components=K)
    assert found.manifest["directions"] == skillaxes.load(job / "run").manifest["directions"]
    with pytest.raises(RunFolderError, match=r"--components was 3, now 2"):
        skillaxes.discover(job / "store", old, components=2)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
