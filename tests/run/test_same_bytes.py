"""The law: same rows, same seed, same bytes, however the rows are chunked and whatever the memory allows.

So with every implementation of the products, and on two threads. Each path (plain files or zarr's pipeline; projections
in memory or on disk; chunks cached wholly, partly, not at all) must have been taken: the plan says so, and the scratch
folder has seen the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.matrices import power_law, rounded, write_store
from support.threads import on_threads

import skillaxes
from skillaxes import memory
from skillaxes.pca import projections
from skillaxes.run import plan as memory_plan
from skillaxes.run_folder.schema import DIRECTIONS, SCORES, SELECTION, TOPK

N, D = 3000, 220


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Duplicates and rows of zeros among them."""
    made = power_law(N, D, exponent=0.5)
    made[100:200] = made[2000:2100]
    made[[7, 2900]] = 0
    return rounded(made, "float16")


def written(run_dir: Path) -> dict[str, bytes]:
    """Everything a run folder holds but the manifest, which has times in it."""
    files = [run_dir / name for name in (DIRECTIONS, TOPK, SELECTION)]
    files += sorted(path for path in (run_dir / SCORES).rglob("*") if path.is_file())
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


@pytest.fixture(scope="module", params=["krylov", "covariance", "incremental"])
def solver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray) -> Path:
    """A plain store in one piece."""
    return write_store(tmp_path_factory.mktemp("one") / "store", rows, "float16", chunk_rows=N)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, one: Path, solver: str, cpu_backend: str) -> dict[str, bytes]:
    """From that store, with all the memory there is."""
    run_dir = tmp_path_factory.mktemp("expected") / "run"
    found = skillaxes.discover(one, run_dir, solver=solver)
    assert found.manifest["plan"]["products"].split(";")[0] == cpu_backend
    assert not found.manifest["plan"]["memory"]["spilled"]
    return written(run_dir)


def differing(run_dir: Path, expected: dict[str, bytes]) -> list[str]:
    found = written(run_dir)
    assert found.keys() == expected.keys()
    return [name for name in expected if found[name] != expected[name]]


def test_again(tmp_path: Path, one: Path, expected: dict[str, bytes], solver: str) -> None:
    skillaxes.discover(one, tmp_path / "again", solver=solver)
    assert not differing(tmp_path / "again", expected)
    skillaxes.discover(one, tmp_path / "seed", solver=solver, seed=1)
    assert differing(tmp_path / "seed", expected), "the seed changes nothing: is it used?"


@pytest.mark.usefixtures("cpu_backend")
def test_again_on_two_threads(tmp_path: Path, one: Path) -> None:
    """Whichever of them takes a piece of the work."""
    with on_threads(2):
        for name in ("run", "again"):
            skillaxes.discover(one, tmp_path / name, solver="krylov")
    assert not differing(tmp_path / "again", written(tmp_path / "run"))


@pytest.mark.parametrize("chunk_rows", [31, 97, 1024])
def test_another_chunking(
    tmp_path: Path, rows: np.ndarray, expected: dict[str, bytes], solver: str, chunk_rows: int
) -> None:
    store = write_store(tmp_path / "store", rows, "float16", chunk_rows=chunk_rows)
    skillaxes.discover(store, tmp_path / "run", solver=solver)
    assert not differing(tmp_path / "run", expected)


def test_shards_layers_and_compression(
    tmp_path: Path, rows: np.ndarray, expected: dict[str, bytes], solver: str
) -> None:
    layouts = {
        "shards": {"chunk_rows": 64, "shard_size": 64 * D * 2 * 5},
        "layered": {"chunk_rows": 64, "layered": True, "hidden": 22},
        "compressed": {"chunk_rows": 64, "compressed": True},
    }
    for name, layout in layouts.items():
        found = skillaxes.discover(
            write_store(tmp_path / name, rows, "float16", **layout), tmp_path / "runs" / name, solver=solver
        )
        assert (found.manifest["plan"]["read_path"] == "plain files") is (name != "compressed")
        assert not differing(tmp_path / "runs" / name, expected)


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets may go below 512 MiB, and this process counts as small as one that has nothing else to do."""
    monkeypatch.setattr(memory, "LEAST", 1 << 20)
    monkeypatch.setattr(memory, "resident", lambda: memory_plan._TYPICAL_INTERPRETER)


@pytest.fixture
def spilled_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that projections were spilled to."""
    seen: list[Path] = []
    original = projections.Projections.__init__

    def watched(self: projections.Projections, *arguments: object, **named: object) -> None:
        original(self, *arguments, **named)  # type: ignore[arg-type]
        if self.file is not None:
            assert self._table is None and os.fstat(self._descriptor).st_nlink == 0
            seen.append(self.file)

    monkeypatch.setattr(projections.Projections, "__init__", watched)
    yield seen


@pytest.mark.usefixtures("tight")
@pytest.mark.parametrize("cache", ["none", "partial", "whole"])
def test_another_memory(
    tmp_path: Path,
    rows: np.ndarray,
    expected: dict[str, bytes],
    solver: str,
    cache: str,
    spilled_files: list[Path],
) -> None:
    store = write_store(tmp_path / "store", rows, "float16", chunk_rows=64, compressed=True)
    ample = skillaxes.plan(store, solver=solver).memory
    assert ample.cache >= rows.size * 2
    least = ample.total - ample.cache - ample.projections
    room = {"none": 0, "partial": rows.size, "whole": 8 * ample.total}[cache]
    found = skillaxes.discover(
        store, tmp_path / "run", solver=solver, memory=least + room, scratch=tmp_path / "scratch"
    )
    held = found.manifest["plan"]["memory"]
    assert held["spilled"] is (cache != "whole")
    assert bool(spilled_files) is (cache != "whole")
    assert all(path.is_relative_to(tmp_path / "scratch") for path in spilled_files)
    assert {"none": held["cache"] == 0, "partial": 0 < held["cache"] < rows.size * 2, "whole": True}[cache]
    assert held["total"] <= held["budget"]
    assert not differing(tmp_path / "run", expected)
    if cache != "whole":
        assert not list((tmp_path / "scratch").iterdir()), "spilled files are left behind"


@pytest.mark.usefixtures("tight")
def test_what_the_cache_saves_is_not_read_again(tmp_path: Path, rows: np.ndarray) -> None:
    store = write_store(tmp_path / "store", rows, "float16", chunk_rows=64, compressed=True)
    ample = skillaxes.discover(store, solver="krylov")
    held = ample.manifest["plan"]["memory"]
    assert ample.manifest["bytes_read"] == rows.size * 2
    least = held["total"] - held["cache"] - held["projections"]
    tight = skillaxes.discover(store, solver="krylov", memory=least, scratch=tmp_path)
    assert tight.manifest["bytes_read"] >= tight.manifest["reads"] * rows.size * 2 - 1
    assert tight.manifest["plan"]["bytes_to_read"] == pytest.approx(tight.manifest["bytes_read"], rel=0.35)


@pytest.mark.usefixtures("tight")
def test_no_memory_for_the_job(tmp_path: Path, rows: np.ndarray) -> None:
    """Refused before anything is read or written, with the sum that would do."""
    store = write_store(tmp_path / "store", rows, "float16", chunk_rows=64)
    held = skillaxes.plan(store, solver="krylov").memory
    with pytest.raises(skillaxes.SkillaxesError, match=r"needs .* type --memory (\d+)MiB or more") as caught:
        skillaxes.discover(store, tmp_path / "run", solver="krylov", memory=held.interpreter)
    assert not (tmp_path / "run").exists()
    named = int(str(caught.value).split("--memory ")[2].split("MiB")[0])
    skillaxes.plan(store, solver="krylov", memory=named << 20)
