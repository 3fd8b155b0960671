"""The law: what the plain method hides is said aloud, in one sentence each, with numbers that numpy confirms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.matrices import Exact, extremes, listed, power_law, rounded, said, write_store

import skillaxes

K = 6


@pytest.fixture(scope="module")
def exact() -> Exact:
    """Two layers, the second four times larger; a mean that turns some raw cosines to one sign."""
    rows = power_law(1200, 120, exponent=0.5, mean=15) * np.repeat([1.0, 4.0], 60)
    return Exact(rounded(rows, "float32"))


@pytest.fixture(scope="module", params=["krylov", "covariance"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, exact: Exact) -> object:
    store = tmp_path_factory.mktemp("said") / "store"
    write_store(store, exact.rows, layer_ids=(4, 9), hidden=60)
    return skillaxes.discover(store, components=K, solver=request.param)


def test_each_is_one_sentence(found: skillaxes.Discovery) -> None:
    kinds = [one["kind"] for one in found.manifest["diagnostics"]]
    assert kinds == ["mean_direction", "layer_scale", "norm", "stability"]
    for one in found.manifest["diagnostics"]:
        assert one["text"] and "\n" not in one["text"] and "nan" not in one["text"]


def test_mean_direction(found: skillaxes.Discovery, exact: Exact) -> None:
    raw, centered = (exact.scores(exact.components[:K], by) for by in ("raw-cosine", "centered-cosine"))
    shared = []
    for direction in range(K):
        both = [
            len(set(extremes(raw[:, direction], 10, side)) & set(extremes(centered[:, direction], 10, side)))
            for side in ("positive", "negative")
        ]
        shared.append(sum(both) / 2)
    remark = said(found, "mean_direction")
    assert remark is not None
    assert remark["values"]["shared"] == shared == [one["shared_top"] for one in found.manifest["directions"]]
    np.testing.assert_allclose(remark["values"]["positive_share"], (raw > 0).mean(axis=0), atol=1e-3)
    one_sign = [i for i in range(K) if max((raw[:, i] > 0).mean(), (raw[:, i] < 0).mean()) >= 0.99]
    assert one_sign, "the matrix is here to show this"
    assert remark["values"]["one_sign"] == one_sign
    np.testing.assert_allclose(remark["values"]["mean_norm"], np.linalg.norm(exact.mean), rtol=1e-5)
    np.testing.assert_allclose(remark["values"]["spread"], exact.total_variance**0.5, rtol=1e-5)
    assert f"{np.mean(shared):.1f} of the top 10" in remark["text"]


def test_layer_scale(found: skillaxes.Discovery, exact: Exact) -> None:
    variance = exact.rows.var(axis=0).reshape(2, 60).sum(axis=1)
    share = variance / variance.sum()
    remark = said(found, "layer_scale")
    assert remark is not None
    np.testing.assert_allclose(remark["values"]["variance_share"], share, rtol=1e-5)
    assert remark["text"].startswith(f"layer 9 holds {100 * share[1]:.0f}% of the variance")


def test_norm_correlation(found: skillaxes.Discovery, exact: Exact) -> None:
    raw = exact.scores(exact.components[:K])
    true = [np.corrcoef(raw[:, i], exact.norms)[0, 1] for i in range(K)]
    remark = said(found, "norm")
    assert remark is not None
    np.testing.assert_allclose(remark["values"]["correlations"], true, atol=1e-4)
    np.testing.assert_allclose([one["norm_correlation"] for one in found.manifest["directions"]], true, atol=1e-4)
    strong = [i for i in range(K) if abs(true[i]) >= 0.3]
    assert all(f"{true[i]:+.2f}" in remark["text"] for i in strong)


@pytest.mark.parametrize("length", [1.0, 1000.0])
def test_no_correlation_with_a_constant_norm(tmp_path: Path, length: float) -> None:
    """All rows of one length: the correlation is 0, not the noise of a cancelled sum."""
    rows = power_law(900, 60, exponent=0.5)
    rows *= length / np.linalg.norm(rows, axis=1)[:, None]
    found = skillaxes.discover(write_store(tmp_path / "store", rows), components=4)
    assert np.abs([one["norm_correlation"] for one in found.manifest["directions"]]).max() <= 0.15


def test_a_small_spread_of_norms(tmp_path: Path) -> None:
    """Norms that differ by one part in ten thousand still have their correlation."""
    rng = np.random.default_rng(0)
    rows = power_law(900, 60, exponent=0.5, mean=20)
    rows *= (1000 + 0.1 * rng.standard_normal(900) + 0.2 * np.sign(rows[:, :1].T[0]))[:, None] / np.linalg.norm(
        rows, axis=1
    )[:, None]
    exact = Exact(rows)
    found = skillaxes.discover(write_store(tmp_path / "store", rows, "float64"), components=4)
    raw = exact.scores(exact.components[:4])
    true = [np.corrcoef(raw[:, i], exact.norms)[0, 1] for i in range(4)]
    np.testing.assert_allclose([one["norm_correlation"] for one in found.manifest["directions"]], true, atol=0.02)


def test_a_store_without_layers_says_nothing_of_them(tmp_path: Path) -> None:
    found = skillaxes.discover(write_store(tmp_path / "store", power_law(300, 40)), components=3)
    assert said(found, "layer_scale") is None
    assert found.manifest["layers"] == {"ids": [], "variance_share": [], "direction_energy": [[], [], []]}


def test_rows_at_both_ends(tmp_path: Path) -> None:
    """Half the rows are equal and lie in the middle: with long lists they are at both ends, and that is said."""
    rows = power_law(60, 20, exponent=0.3)
    rows[10:50] = rows[10]
    store = write_store(tmp_path / "store", rows)
    long = skillaxes.discover(store, components=1, top=30, rank_by="projection")
    remark = said(long, "ties")
    both = [set(listed(long.topk, 0, side)) for side in ("positive", "negative")]
    assert bool(both[0] & both[1]) and remark is not None and remark["values"]["directions"] == [0]
    assert said(skillaxes.discover(store, components=1, top=3, rank_by="projection"), "ties") is None
