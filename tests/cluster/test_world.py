"""Law: 1, 2 and 4 processes find the same: directions within 1e-10, the same rows at their ends, the same scores.

``incremental`` takes rows in the order in which they come, so that several processes make another approximation, as
good as that of one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cluster.groups import environment, run, run_well
from safetensors.numpy import load_file

import skillaxes
from skillaxes.run_folder.scores import read_scores

slow = pytest.mark.cluster
N, D = 2400, 1152


@pytest.fixture(scope="module")
def realistic() -> np.ndarray:
    """A far mean, a power law, huge columns, equal rows, a row of zeros: float16."""
    random = np.random.default_rng(5)
    axes = np.linalg.qr(random.normal(size=(D, 150)))[0]
    mean = random.normal(size=D)
    mean[:4] *= 30
    rows = (random.normal(size=(N, 150)) * 8 * np.arange(1, 151) ** -0.75) @ axes.T
    rows += mean + 0.02 * random.normal(size=(N, D))
    rows[2000] = rows[100]  # equal rows in different processes
    rows[1999] = rows[101]
    rows[777] = 0
    return rows.astype(np.float16)


def cosines(first: Path, second: Path) -> np.ndarray:
    one, two = (load_file(run / "directions.safetensors")["components"].astype(np.float64) for run in (first, second))
    return np.abs((one * two).sum(axis=1)) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


def assert_same(alone: Path, shared: Path, *, scores: float = 1e-4) -> None:
    assert (1 - cosines(alone, shared) <= 1e-10).all()
    one, two = (pq.read_table(run / "topk.parquet").to_pydict() for run in (alone, shared))
    for column in ("direction", "side", "position", "row", "trace_id"):
        assert one[column] == two[column], column
    np.testing.assert_allclose(one["cosine"], two["cosine"], atol=1e-6)
    np.testing.assert_allclose(one["cosine_centered"], two["cosine_centered"], atol=1e-5)
    picked = [
        [
            (kind, side, row)
            for kind, role, side, row in zip(*(table[n] for n in ("kind", "role", "side", "row")), strict=True)
            if kind == "component" and role == "shown"
        ]
        for table in (pq.read_table(run / "selection.parquet").to_pydict() for run in (alone, shared))
    ]
    assert picked[0] == picked[1]
    ours, theirs = read_scores(alone), read_scores(shared)
    for name, values in ours.items():
        if np.isnan(values).all():  # norms of centred rows, where a single read could not know them
            assert np.isnan(theirs[name]).all()
            continue
        np.testing.assert_allclose(theirs[name], values, atol=scores * np.nanmax(np.abs(values)), err_msg=name)


def manifest(run_dir: Path) -> dict:
    return json.loads((run_dir / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (2, {}),
        pytest.param(4, {}, marks=slow),
        (2, {"solver": "covariance"}),
        pytest.param(4, {"scale": "column-std", "rank_by": "centered-cosine"}, marks=slow),
        (2, {"rank_by": "projection", "layers": "2"}),
    ],
)
def test_the_same_findings(
    make_store: Callable[..., Path], realistic: np.ndarray, tmp_path: Path, size: int, options: dict[str, str]
) -> None:
    store = make_store(realistic, dtype="float16", chunk_rows=100, layer_ids=[1, 2], hidden=D // 2)
    alone = {**options, "layers": [2]} if "layers" in options else options
    skillaxes.discover(store, tmp_path / "alone", **alone)
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    ended = run_well(size, "discover", store, tmp_path / "shared", *words)
    assert_same(tmp_path / "alone", tmp_path / "shared")
    assert all(one.out == "" for one in ended[1:])  # process 0 alone prints
    one, two = manifest(tmp_path / "alone"), manifest(tmp_path / "shared")
    assert (two["reads"], two["bytes_read"]) == (one["reads"], one["bytes_read"])
    assert two["rows"] == one["rows"]
    assert next(part["rows"][0] for part in two["processes"]) == 0
    assert two["processes"][-1]["rows"][1] == N
    assert [entry["kind"] for entry in two["diagnostics"]] == [entry["kind"] for entry in one["diagnostics"]]


def test_rows_left_out_and_compressed_chunks(
    make_store: Callable[..., Path], realistic: np.ndarray, tmp_path: Path
) -> None:
    import zarr

    rows = realistic.copy()
    rows[[5, 1500, 2399], 7] = np.nan
    path = tmp_path / "packed.zarr"
    packed = zarr.create_array(path, shape=rows.shape, chunks=(130, D), dtype="float16")  # zarr's own codecs
    packed[:] = rows
    options = ["--bad-rows", "skip", "--components", "5"]
    skillaxes.discover(path, tmp_path / "alone", bad_rows="skip", components=5)
    run_well(3, "discover", path, tmp_path / "shared", *options)
    assert_same(tmp_path / "alone", tmp_path / "shared")
    assert manifest(tmp_path / "shared")["rows"]["bad"] == [5, 1500, 2399]


def test_incremental_is_as_good_by_several(
    make_store: Callable[..., Path], realistic: np.ndarray, tmp_path: Path
) -> None:
    store = make_store(realistic, dtype="float16", chunk_rows=100)
    skillaxes.discover(store, tmp_path / "exact", solver="krylov", tolerance=1e-6)
    skillaxes.discover(store, tmp_path / "alone", solver="incremental")
    run_well(2, "discover", store, tmp_path / "shared", "--solver", "incremental")
    alone, shared = (1 - cosines(tmp_path / "exact", tmp_path / name) for name in ("alone", "shared"))
    assert shared.max() <= 2 * alone.max()
    assert manifest(tmp_path / "shared")["reads"] == manifest(tmp_path / "alone")["reads"]


@pytest.mark.parametrize(("size", "rank_by"), [(2, "raw-cosine"), pytest.param(4, "centered-cosine", marks=slow)])
def test_apply(make_store: Callable[..., Path], realistic: np.ndarray, tmp_path: Path, size: int, rank_by: str) -> None:
    store = make_store(realistic, dtype="float16", chunk_rows=100)
    given = tmp_path / "given.npy"
    np.save(given, np.random.default_rng(1).normal(size=(6, D)))
    skillaxes.apply(store, tmp_path / "alone", directions=given, rank_by=rank_by)
    run_well(size, "apply", store, tmp_path / "shared", "--directions", given, "--rank-by", rank_by)
    assert_same(tmp_path / "alone", tmp_path / "shared")


@slow
def test_the_shared_data(shared_data: Path, tmp_path: Path) -> None:
    """Real activations, 19 of whose rows are exact copies of others."""
    (source,) = shared_data.glob("smollm2-reasoning/activations.npy")
    store = tmp_path / "store.zarr"
    from skillaxes.ingest import ingest

    ingest(source, store)
    skillaxes.discover(store, tmp_path / "alone")
    for size in (2, 4):
        run_well(size, "discover", store, tmp_path / f"by{size}")
        assert_same(tmp_path / "alone", tmp_path / f"by{size}")


def test_torchrun_runs_the_main_job(store: Path, traces: Path, tmp_path: Path) -> None:
    """``torchrun -m skillaxes run``: labels and report once, by process 0; the threads are shared out."""
    words = ["run", store, tmp_path / "run", "--traces", traces, "--components", 3, "--top", 5, "--baselines", 3]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "skillaxes", *words]
    clean = environment()
    del clean["OMP_NUM_THREADS"]
    ended = subprocess.run([*map(str, command)], env=clean, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Report: ") == 1
    assert (tmp_path / "run" / "report.html").exists()
    found = manifest(tmp_path / "run")
    cores = len(os.sched_getaffinity(0))
    assert [part["threads"] for part in found["processes"]] == [max(1, cores // 2)] * 2


@slow
def test_the_same_command_again_is_done_already(
    make_store: Callable[..., Path], realistic: np.ndarray, tmp_path: Path
) -> None:
    """By however many processes; and another number of them is no other job."""
    store = make_store(realistic[:600], dtype="float16", chunk_rows=100)
    run_well(2, "discover", store, tmp_path / "run", "--components", "3")
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    ended = run_well(4, "discover", store, tmp_path / "run", "--components", "3")
    assert "done already" in ended[0].err
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before
    ended = run(2, "discover", store, tmp_path / "run", "--components", "4")
    assert [one.code for one in ended] == [2, 2]
    assert "--components was 3, now 4" in ended[0].err
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before
