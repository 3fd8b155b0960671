"""The law: rows that arrive once, in batches of any size, give what scikit-learn's IncrementalPCA gives or better.

Named and used as scikit-learn's own, without importing it.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.matrices import Exact, direction_errors, power_law

from skillaxes import StreamingPCA
from skillaxes.errors import BadRowsError, UsageError

ROOT = Path(__file__).resolve().parents[1]
K = 8


def in_batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


def fitted(rows: np.ndarray, size: int, k: int = K) -> StreamingPCA:
    pca = StreamingPCA(k)
    for batch in in_batches(rows, size):
        pca.partial_fit(batch)
    return pca


SPECTRA = {
    "decaying": {"exponent": 1.0},
    "slow": {"exponent": 0.4},
    "steep": {"exponent": 0.6, "leading": (300.0, 200.0)},
    "large mean": {"exponent": 0.6, "mean": 1e3},
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_not_worse_than_scikit_learn(spectrum: str, order: str) -> None:
    """Also when the rows come sorted along the first direction, the worst order for a method that sees them once."""
    from sklearn.decomposition import IncrementalPCA

    rows = power_law(3000, 120, **SPECTRA[spectrum])
    exact = Exact(rows)
    if order == "sorted":
        rows = rows[np.argsort(rows @ exact.components[0])]
    peer = IncrementalPCA(K, batch_size=512).fit(rows)
    ours = fitted(rows, 512)
    true = exact.components[:K]
    theirs = direction_errors(peer.components_, true).max()
    mine = direction_errors(ours.components_, true).max()
    assert mine <= max(theirs, 1e-9), f"{mine:.1e} against {theirs:.1e}"
    np.testing.assert_allclose(ours.mean_, rows.mean(axis=0), atol=1e-5 * np.abs(rows).max())
    np.testing.assert_allclose(ours.explained_variance_, exact.values[:K], rtol=2e-2)
    gap = np.abs(ours.explained_variance_ / exact.values[:K] - 1).max()
    assert gap <= max(np.abs(peer.explained_variance_ / exact.values[:K] - 1).max(), 1e-5)
    np.testing.assert_allclose(
        ours.explained_variance_ratio_, ours.explained_variance_ / exact.total_variance, rtol=1e-3
    )


@pytest.mark.parametrize("size", [1, 3, K - 1, K, 100, 511, 512, 513, 3000])
def test_the_size_of_batches_plays_no_part(size: int) -> None:
    """A row at a time, fewer than components, more than are taken at once: the same numbers."""
    rows = power_law(1300, 60, exponent=0.6)
    one = fitted(rows, 1300)
    other = fitted(rows, size)
    assert other.n_samples_seen_ == 1300
    np.testing.assert_allclose(other.components_, one.components_, atol=1e-4)
    np.testing.assert_allclose(other.explained_variance_, one.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(other.mean_, one.mean_, atol=1e-6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    d=st.integers(1, 30),
    k=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_any_batches(sizes: list[int], d: int, k: int, seed: int) -> None:
    """Few rows lose nothing: what comes out is exact, and k shrinks to what the rows span."""
    rows = power_law(max(sum(sizes), 1), d, exponent=0.3, mean=2, seed=seed)
    if sum(sizes) < 2 or k > d:
        return
    pca, at = StreamingPCA(k), 0
    for size in sizes:
        pca.partial_fit(rows[at : at + size])
        at += size
    rows = rows[:at]
    assert pca.n_samples_seen_ == at
    wanted = min(k, d, at - 1)
    assert pca.n_components_ >= wanted
    exact = Exact(rows)
    np.testing.assert_allclose(pca.explained_variance_[:wanted], exact.values[:wanted], rtol=1e-3)
    apart = np.abs(np.diff(exact.values[: wanted + 1])) / exact.values[:wanted][: len(exact.values[: wanted + 1]) - 1]
    if (apart > 1e-2).all():
        assert direction_errors(pca.components_[:wanted], exact.components[:wanted]).max() <= 1e-6


def test_reading_attributes_on_the_way_changes_nothing() -> None:
    rows = power_law(1500, 50, exponent=0.6)
    quiet, asked = StreamingPCA(K), StreamingPCA(K)
    for batch in in_batches(rows, 70):
        quiet.partial_fit(batch)
        asked.partial_fit(batch)
        assert np.isfinite(asked.components_).all() and asked.n_samples_seen_
    np.testing.assert_array_equal(quiet.components_, asked.components_)
    np.testing.assert_array_equal(quiet.explained_variance_, asked.explained_variance_)


def test_fit_forgets() -> None:
    first, second = power_law(400, 30, seed=1), power_law(300, 20, seed=2)
    pca = StreamingPCA(4).fit(first)
    pca.fit(second)
    np.testing.assert_array_equal(pca.components_, StreamingPCA(4).fit(second).components_)
    assert pca.n_samples_seen_ == 300 and pca.n_features_in_ == 20


def test_transform() -> None:
    from sklearn.decomposition import PCA

    rows = power_law(500, 30, exponent=0.7)
    pca = StreamingPCA(5)
    projected = pca.fit_transform(rows)
    peer = PCA(5, svd_solver="full").fit(rows)
    assert projected.dtype == np.float64 and projected.shape == (500, 5)
    signs = np.sign((peer.components_ * pca.components_).sum(axis=1))
    np.testing.assert_allclose(projected * signs, peer.transform(rows), atol=1e-4)
    np.testing.assert_allclose(
        pca.inverse_transform(projected), peer.inverse_transform(peer.transform(rows)), atol=1e-4
    )
    np.testing.assert_allclose(pca.singular_values_, peer.singular_values_, rtol=1e-5)
    assert (pca.components_[np.arange(5), np.abs(pca.components_).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes(dtype: str) -> None:
    rows = power_law(300, 20, exponent=0.7).astype(dtype)
    one = StreamingPCA(3).fit(rows)
    other = StreamingPCA(3).fit(torch.from_numpy(rows))
    np.testing.assert_array_equal(one.components_, other.components_)
    assert one.components_.dtype == np.float32 and one.mean_.dtype == np.float64
    np.testing.assert_allclose(one.transform(rows[:3]), other.transform(rows[:3]))


def test_bfloat16_and_lists() -> None:
    rows = torch.from_numpy(power_law(300, 20, exponent=0.7)).bfloat16()
    pca = StreamingPCA(3).fit(rows)
    assert direction_errors(pca.components_, Exact(rows.double().numpy()).components[:3]).max() <= 1e-6
    assert pca.transform(rows[:2]).shape == (2, 3)
    assert StreamingPCA(1).fit([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]]).components_.shape == (1, 2)
    assert StreamingPCA(1).fit([[1, 2], [3, 4], [5, 7]]).components_.shape == (1, 2)


def test_clone_copy_and_pickle() -> None:
    from sklearn.base import clone

    rows = power_law(300, 20)
    pca = StreamingPCA(3).fit(rows)
    fresh = clone(pca)
    assert fresh.n_components == 3 and not hasattr(fresh, "components_")
    assert pca.set_params(n_components=4).get_params() == {"n_components": 4}
    pca.set_params(n_components=3)
    for twin in (copy.deepcopy(pca), pickle.loads(pickle.dumps(pca))):
        np.testing.assert_array_equal(twin.components_, pca.components_)
        twin.partial_fit(rows * 2)
    assert pca.n_samples_seen_ == 300, "a copy shares no state"


def test_errors() -> None:
    rows = power_law(40, 10)
    with pytest.raises(AttributeError, match="before fit"):
        _ = StreamingPCA(3).components_
    with pytest.raises(AttributeError, match="no 'magic'"):
        _ = StreamingPCA(3).fit(rows).magic
    with pytest.raises(UsageError, match="seen no rows"):
        StreamingPCA(3).transform(rows)
    for k in (0, 11, -1, 2.0):
        with pytest.raises(UsageError, match=f"n_components {k}: needs 1 to 10"):
            StreamingPCA(k).fit(rows)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"rows of shape \(10,\)"):
        StreamingPCA(3).fit(rows[0])
    pca = StreamingPCA(3).fit(rows)
    with pytest.raises(UsageError, match="9 columns: the rows before had 10"):
        pca.partial_fit(rows[:, :9])
    with pytest.raises(UsageError, match="'tol' is no parameter"):
        pca.set_params(tol=1)


def test_bad_rows_are_named_and_change_nothing() -> None:
    rows = power_law(60, 10)
    pca = StreamingPCA(3).fit(rows)
    before = pca.components_.copy()
    broken = rows.copy()
    broken[[5, 7], 2] = np.nan, np.inf
    with pytest.raises(BadRowsError, match="NaN or infinity in row 65 and 1 more") as caught:
        pca.partial_fit(broken)
    assert caught.value.rows == (65, 67), "counted over all batches"
    with pytest.raises(BadRowsError, match=r"values above 1e\+15 in row 60"):
        pca.partial_fit(rows * 1e20)
    assert pca.n_samples_seen_ == 60
    np.testing.assert_array_equal(pca.components_, before)


def test_nothing_but_what_is_needed_is_imported() -> None:
    code = (
        "import sys; from skillaxes import StreamingPCA; import numpy as np\n"
        "assert 'torch' not in sys.modules\n"
        "StreamingPCA(2).fit(np.random.default_rng(0).standard_normal((50, 5))).transform(np.zeros((1, 5)))\n"
        "assert not {'sklearn', 'scipy', 'zarr', 'pandas', 'openai'} & set(sys.modules), set(sys.modules)\n"
    )
    environment = {"PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'kernels'}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
