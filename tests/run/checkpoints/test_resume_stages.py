"""The law: between two stages a job can be stopped as well as within one, whatever the stages are, and nothing that
is on record is read again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.matrices import power_law, rounded, write_store
from support.stopping import Listening, differing, discover, stopped, written

import skillaxes
from skillaxes import memory
from skillaxes.cluster import signals
from skillaxes.errors import StoppedEarly
from skillaxes.pca import krylov
from skillaxes.run import plan as memory_plan
from skillaxes.run.checkpoint import Checkpoint

N, D = 2200, 96


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = rounded(power_law(N, D, exponent=0.4, mean=8), "float16")
    path = tmp_path_factory.mktemp("store") / "store"
    return write_store(path, rows, "float16", chunk_rows=150, layer_ids=(1, 2, 3), hidden=32)


@pytest.fixture(autouse=True)
def small_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    from skillaxes.run import plan as planning

    monkeypatch.setattr(planning, "panel_rows_for", lambda row_bytes, roomy=True: 256)


def stopped_after_stage(monkeypatch: pytest.MonkeyPatch, job: Any, store: Path, run_dir: Path, stage: int) -> str:
    """Run ``job`` until it stops behind the ``stage``-th stage on record; what it says."""
    finish, seen = Checkpoint.finish, []

    def asked(self: Checkpoint, *arguments: Any, **named: Any) -> None:
        seen.append(1)
        if len(seen) == stage:
            signals.request_stop("a test")
        finish(self, *arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(StoppedEarly) as caught:
        patch.setattr(Checkpoint, "finish", asked)
        job(store, run_dir)
    signals._Flag.reason = None
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({"solver": "krylov"}, ("warm start", "read 1", "read 2")),
        ({"solver": "krylov", "scale": "layer-rms"}, ("column statistics", "warm start", "read 2", "read 3")),
        (
            {"solver": "covariance", "scale": "column-std"},
            ("column statistics", "warm start", "read 2 (covariance)", "read 3"),
        ),
        ({"solver": "incremental"}, ("warm start", "read 1 (incremental)", "read 2")),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_stopped_between_stages(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], stages: tuple[str, ...]
) -> None:
    job = partial(discover, components=4, **options)
    undisturbed = job(store, tmp_path / "undisturbed").manifest
    expected = written(tmp_path / "undisturbed")
    for number, stage in enumerate(stages, 1):
        run_dir = tmp_path / f"run-{number}"
        said = stopped_after_stage(monkeypatch, job, store, run_dir, number)
        assert f"after {stage}, with a checkpoint" in said
        progress = Listening()
        found = job(store, run_dir, progress=progress).manifest
        assert stage not in progress.seen
        assert not differing(run_dir, expected)
        assert found["reads"] == pytest.approx(undisturbed["reads"], abs=0.8 * found["plan"]["sample_rows"] / N)
        assert [one["name"] for one in found["stages"] if one["reads"]] == [
            one["name"] for one in undisturbed["stages"] if one["reads"]
        ]


@pytest.mark.parametrize("scale", ["layer-rms", "column-std"])
@pytest.mark.parametrize("read", ["column statistics", "read 2"])
def test_stopped_with_scaled_columns(tmp_path: Path, store: Path, scale: str, read: str) -> None:
    options = {"components": 4, "solver": "krylov", "scale": scale}
    skillaxes.discover(store, tmp_path / "undisturbed", **options)
    for panels in (2, 9):
        run_dir = tmp_path / f"run-{panels}"
        stopped(discover, store, run_dir, read, panels, **options)
        skillaxes.discover(store, run_dir, **options)
        assert not differing(run_dir, written(tmp_path / "undisturbed"))


@pytest.mark.parametrize(("stage", "panels"), [("read 2", 4), ("read 3", 5), ("read 4", 1)])
def test_an_iteration_that_begins_anew(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, stage: str, panels: int
) -> None:
    """The row files of the reads before are gone, those behind have numbers of their own."""
    monkeypatch.setattr(krylov, "is_rounding_limited", lambda state: state.reads == 2)
    options = {"components": 4, "solver": "krylov", "tolerance": 1e-9, "max_reads": 4, "checkpoint_every": 0}
    skillaxes.discover(store, tmp_path / "undisturbed", **options)
    manifest = stopped(discover, store, tmp_path / "run", stage, panels, **options)
    kept = {path.stem for path in (tmp_path / "run" / "checkpoint").glob("*.f32")}
    before = {"read 2": {1, 2}, "read 3": {3}, "read 4": {3, 4}}[stage]
    assert kept == {"rows-krylov", *(f"projections-{read}" for read in before)}, manifest["stopped"]
    skillaxes.discover(store, tmp_path / "run", **options)
    assert not differing(tmp_path / "run", written(tmp_path / "undisturbed"))


@pytest.mark.parametrize("rank_by", ["raw-cosine", "centered-cosine"])
@pytest.mark.parametrize("panels", [3, 9])
def test_apply(tmp_path: Path, store: Path, rank_by: str, panels: int) -> None:
    directions = tmp_path / "directions.npy"
    np.save(directions, np.random.default_rng(0).normal(size=(5, D)))
    job = partial(skillaxes.apply, directions=directions, rank_by=rank_by)
    job(store, tmp_path / "undisturbed")
    for read in ("read 1", "read 2") if rank_by == "centered-cosine" else ("read 1",):
        run_dir = tmp_path / read
        stopped(job, store, run_dir, read, panels)
        progress = Listening()
        job(store, run_dir, progress=progress)
        assert progress.seen[0] == read
        assert not differing(run_dir, written(tmp_path / "undisturbed"))


@pytest.mark.parametrize("read", ["read 1", "read 2"])
def test_spilled_projections(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    """Whether projections lie in memory or on a scratch disk, before or after: the row files are the same."""
    options = {"components": 4, "solver": "krylov"}
    skillaxes.discover(store, tmp_path / "undisturbed", **options)
    stopped(discover, store, tmp_path / "ample", read, 5, **options)
    monkeypatch.setattr(memory, "LEAST", 1 << 20)
    monkeypatch.setattr(memory, "resident", lambda: memory_plan._TYPICAL_INTERPRETER)
    held = skillaxes.plan(store, **options).memory
    tight = {**options, "memory": held.total - held.cache - held.projections, "scratch": tmp_path / "scratch"}
    assert skillaxes.plan(store, **tight).memory.spilled
    stopped(discover, store, tmp_path / "tight", read, 5, **tight)
    skillaxes.discover(store, tmp_path / "ample", **tight)
    skillaxes.discover(store, tmp_path / "tight", **options)
    for run_dir in ("ample", "tight"):
        assert not differing(tmp_path / run_dir, written(tmp_path / "undisturbed"))


def test_stopped_again_and_again(tmp_path: Path, store: Path) -> None:
    options = {"components": 4, "solver": "krylov"}
    skillaxes.discover(store, tmp_path / "undisturbed", **options)
    run_dir = tmp_path / "run"
    for read in ("read 1", "read 2"):
        for _ in range(3):  # what was done before counts as one panel
            stopped(discover, store, run_dir, read, 3, **options)
    found = skillaxes.discover(store, run_dir, **options).manifest
    assert not differing(run_dir, written(tmp_path / "undisturbed"))
    assert found["resumptions"] == 6 and found["attempts"] == 7
    assert found["seconds"] >= sum(stage["seconds"] for stage in found["stages"]) > 0
