"""The law: given directions rank the rows of a store as numpy does, in one read, whatever file they come in.

A store's own directions give the lists that ``discover`` gave.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from support.matrices import Exact, power_law, rounded, write_store, wrong_lists

import skillaxes
from skillaxes.errors import BadRowsError, RunFolderError, SourceError, UsageError
from skillaxes.run_folder.schema import RANKINGS
from skillaxes.run_folder.scores import read_scores

N, D, K = 900, 120, 6


@pytest.fixture(scope="module")
def exact() -> Exact:
    return Exact(rounded(power_law(N, D, exponent=0.5, mean=8), "float16"))


@pytest.fixture
def store(tmp_path: Path, exact: Exact) -> Path:
    return write_store(tmp_path / "store", exact.rows, "float16", chunk_rows=77, layer_ids=(1, 2, 3), hidden=40)


@pytest.mark.parametrize("rank_by", RANKINGS)
@pytest.mark.parametrize("scale", ["none", "column-std"])
def test_its_own_directions(store: Path, tmp_path: Path, rank_by: str, scale: str) -> None:
    found = skillaxes.discover(store, tmp_path / "found", components=K, rank_by=rank_by, scale=scale)
    applied = skillaxes.apply(
        store, tmp_path / "applied", directions=tmp_path / "found" / "directions.safetensors", rank_by=rank_by
    )
    for name in ("direction", "side", "position", "row"):
        assert applied.topk[name].to_pylist() == found.topk[name].to_pylist()
    for name in ("cosine", "cosine_centered", "projection"):
        np.testing.assert_allclose(applied.topk[name].to_numpy(), found.topk[name].to_numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(applied.directions.components, found.directions.components, atol=1e-6)
    np.testing.assert_allclose(applied.directions.mean, found.directions.mean, atol=1e-5)
    np.testing.assert_allclose(applied.directions.explained_variance, found.directions.explained_variance, rtol=1e-4)
    assert applied.manifest["reads"] == 1
    assert applied.manifest["command"] == "apply"
    scores = [read_scores(tmp_path / name) for name in ("found", "applied")]
    for name in scores[0]:
        np.testing.assert_allclose(scores[1][name], scores[0][name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank_by", RANKINGS)
def test_arbitrary_directions_without_a_mean(store: Path, tmp_path: Path, exact: Exact, rank_by: str) -> None:
    """Of any length and not orthogonal; centred scores are relative to the store's own mean, and cost a second read."""
    given = np.random.default_rng(0).standard_normal((K, D)) * 7
    np.save(tmp_path / "given.npy", given)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    applied = skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "given.npy", rank_by=rank_by)
    exact = Exact(exact.rows)
    exact.__dict__["components"] = unit
    assert not wrong_lists(applied, exact, rank_by=rank_by, k=K)
    np.testing.assert_allclose(applied.directions.components, unit, atol=1e-6)
    variance = np.einsum("kd,de,ke->k", unit, np.cov(exact.rows.T), unit)
    np.testing.assert_allclose(applied.directions.explained_variance, variance, rtol=1e-4)
    np.testing.assert_allclose(applied.directions.explained_variance_ratio, variance / exact.total_variance, rtol=1e-4)
    assert applied.manifest["reads"] == (2 if rank_by == "centered-cosine" else 1)
    table = applied.topk.to_pydict()
    pairs = list(zip(table["row"], table["direction"], strict=True))
    for column, name in (
        ("cosine", "raw-cosine"),
        ("cosine_centered", "centered-cosine"),
        ("projection", "projection"),
    ):
        true = exact.scores(unit, name)
        np.testing.assert_allclose(table[column], [true[pair] for pair in pairs], atol=2e-5 * np.abs(true).max())
    assert all(table["certified"]) or rank_by, "given directions don't turn"
    assert np.isnan(applied.directions.split_half).all()


def test_a_mean_of_its_own(store: Path, tmp_path: Path, exact: Exact) -> None:
    """Centred scores are relative to the mean that came with the directions; one read does."""
    unit = exact.components[:K]
    mean = exact.mean + 0.5
    np.savez(tmp_path / "given.npz", components=unit, mean=mean)
    applied = skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "given.npz", rank_by="centered-cosine")
    assert applied.manifest["reads"] == 1
    true = exact.scores(unit, "centered-cosine", mean)
    table = applied.topk.to_pydict()
    found = [true[pair] for pair in zip(table["row"], table["direction"], strict=True)]
    np.testing.assert_allclose(table["cosine_centered"], found, atol=2e-5)
    for direction in range(K):
        top = np.sort(true[:, direction])[::-1][:10]
        mine = [
            value
            for value, at, side in zip(table["cosine_centered"], table["direction"], table["side"], strict=True)
            if at == direction and side == "positive"
        ]
        np.testing.assert_allclose(mine, top, atol=2e-5)
    variance = np.einsum("kd,de,ke->k", unit, np.cov(exact.rows.T), unit)
    np.testing.assert_allclose(applied.directions.explained_variance, variance, rtol=1e-4)
    scores = read_scores(tmp_path / "run")
    np.testing.assert_allclose(scores["centered_norm"], np.linalg.norm(exact.rows - mean, axis=1), rtol=1e-5)


def test_files(store: Path, tmp_path: Path, exact: Exact) -> None:
    """What the notebook pickled, numpy's files and safetensors, one direction or several, give the same lists."""
    from safetensors.numpy import save_file

    unit = np.ascontiguousarray(exact.components[:K], np.float32)
    np.save(tmp_path / "a.npy", unit)
    np.savez(tmp_path / "b.npz", components=unit)
    save_file({"components": unit}, tmp_path / "c.safetensors")
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(unit))
    (tmp_path / "e.pkl").write_bytes(pickle.dumps(torch.from_numpy(unit)))
    torch.save(torch.from_numpy(unit), tmp_path / "f.pt")
    np.save(tmp_path / "g.npy", unit.reshape(K, 3, 40))
    tables = [
        skillaxes.apply(store, directions=tmp_path / name).topk
        for name in ("a.npy", "b.npz", "c.safetensors", "d.pkl", "e.pkl", "f.pt", "g.npy")
    ]
    assert all(table.equals(tables[0]) for table in tables[1:])
    np.save(tmp_path / "one.npy", unit[2])
    one = skillaxes.apply(store, directions=tmp_path / "one.npy").topk.to_pydict()
    both = zip(tables[0]["row"].to_pylist(), tables[0]["direction"].to_pylist(), strict=True)
    assert one["row"] == [row for row, direction in both if direction == 2]


def test_more_directions_than_rows_or_columns(tmp_path: Path) -> None:
    rows = rounded(power_law(20, 6), "float32")
    store = write_store(tmp_path / "store", rows)
    given = np.random.default_rng(0).standard_normal((50, 6))
    np.save(tmp_path / "given.npy", given)
    applied = skillaxes.apply(store, directions=tmp_path / "given.npy", top=3)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    raw = rows @ unit.T / np.linalg.norm(rows, axis=1)[:, None]
    table = applied.topk.to_pydict()
    true = [raw[pair] for pair in zip(table["row"], table["direction"], strict=True)]
    np.testing.assert_allclose(table["cosine"], true, atol=2e-6)


def test_a_part_of_the_layers(store: Path, tmp_path: Path, exact: Exact) -> None:
    part = Exact(exact.rows[:, 40:80])
    np.save(tmp_path / "given.npy", part.components[:K])
    applied = skillaxes.apply(store, directions=tmp_path / "given.npy", layers=[2])
    assert not wrong_lists(applied, part, k=K)
    with pytest.raises(UsageError, match=r"given.npy: directions with 40 columns, but 120 columns .* --layers"):
        skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "given.npy")
    assert not (tmp_path / "run").exists()


def test_refusals(store: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "given.npy", np.eye(K, D))
    for options in ({"scale": "column-std"}, {"solver": "krylov"}):
        with pytest.raises(UsageError, match="leave out --scale and --solver"):
            skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "given.npy", **options)
    with pytest.raises(SourceError):
        skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "nothing.npy")
    with pytest.raises(UsageError, match="--top 451"):
        skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "given.npy", top=451)
    assert not (tmp_path / "run").exists()


def test_run_folders(store: Path, tmp_path: Path) -> None:
    """The directions themselves, not their file, tell one job from another."""
    np.save(tmp_path / "a.npy", np.eye(K, D))
    np.save(tmp_path / "same.npy", np.eye(K, D))
    np.save(tmp_path / "b.npy", np.eye(K, D)[::-1].copy())
    first = skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "a.npy")
    again = skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "same.npy")
    assert again.manifest == skillaxes.load(tmp_path / "run").manifest
    assert again.topk.equals(first.topk)
    with pytest.raises(RunFolderError, match="--directions was"):
        skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "b.npy")
    with pytest.raises(RunFolderError, match="made by `skillaxes apply`"):
        skillaxes.discover(store, tmp_path / "run", components=K)


@pytest.mark.parametrize("mean", [True, False])
def test_bad_rows(tmp_path: Path, exact: Exact, mean: bool) -> None:
    rows = exact.rows.copy()
    bad = [0, 300, 301, N - 1]
    rows[bad, 5] = np.nan
    store = write_store(tmp_path / "store", rows, "float16", chunk_rows=77)
    arrays = {"components": exact.components[:K]} | ({"mean": exact.mean} if mean else {})
    np.savez(tmp_path / "given.npz", **arrays)
    with pytest.raises(BadRowsError, match="row 0"):
        skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "given.npz")
    assert not (tmp_path / "run").exists()
    applied = skillaxes.apply(store, tmp_path / "run", directions=tmp_path / "given.npz", bad_rows="skip")
    assert applied.manifest["rows"]["bad"] == bad
    left = Exact(rows, np.isfinite(rows).all(axis=1))
    left.__dict__["components"] = exact.components[:K]
    assert not wrong_lists(applied, left, k=K)
    assert np.isnan(read_scores(tmp_path / "run")["projection"][bad]).all()


def test_short_rows(tmp_path: Path, exact: Exact) -> None:
    """Rows much shorter than the mean are as exact here as in ``discover``."""
    rows = exact.rows.copy()
    rows[[3, 500]] = rounded(rows[[4, 501]] * 1e-4, "float16")
    store = write_store(tmp_path / "store", rows, "float16")
    short = Exact(rows)
    short.__dict__["components"] = exact.components[:K]
    np.save(tmp_path / "given.npy", exact.components[:K])
    applied = skillaxes.apply(store, directions=tmp_path / "given.npy")
    table = applied.topk.to_pydict()
    true = short.scores(exact.components[:K])
    found = [true[pair] for pair in zip(table["row"], table["direction"], strict=True)]
    np.testing.assert_allclose(table["cosine"], found, atol=2e-5)
    assert not wrong_lists(applied, short, k=K)
