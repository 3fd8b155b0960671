"""The law: a job on the double of a card finds what it finds on the CPU, and no computation mixes devices.

Every solver, dtype, layer choice and scale, with bad rows, after running out of memory and after a stop; rankings by
every score; given directions with and without a mean; kept projections on disk. Here the kernels are plain torch's; on
the fused ones: ``test_double_fused.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_jobs import LAWS, OPTIONS, D, N, assert_same, discover_here, make_store, same_as_on_the_cpu
from double_place import DoublePlace
from support.matrices import direction_errors, power_law, rounded, write_store

import skillaxes
from skillaxes.ingest.directions import GivenDirections
from skillaxes.run import plan
from skillaxes.run_folder.schema import RANKINGS

pytestmark = pytest.mark.cuda_double

EXACT = 1e-12  # 1 - |cos| of a solver that nothing but float32's sums keeps from the CPU's directions
LAYERS: dict[str, Any] = {"hidden": 50, "layer_ids": (3, 7, 11, 15)}


@pytest.fixture
def place(guard_folder: Path) -> DoublePlace:
    return DoublePlace(guard_folder)


@pytest.mark.parametrize("case", OPTIONS)
def test_same_as_on_the_cpu(place: DoublePlace, tmp_path: Path, case: str) -> None:
    same_as_on_the_cpu(place, tmp_path, case)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_holds(place: DoublePlace, tmp_path: Path, law: Any) -> None:
    law(place, tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_several_reads(place: DoublePlace, tmp_path: Path, dtype: str) -> None:
    """Blocks that were rounded to the store's dtype still lead to the same directions."""
    store = make_store(tmp_path, dtype)
    options = {"solver": "krylov", "tolerance": 1e-6, "max_reads": 6}
    here, there = discover_here(store, **options), place.discover(store, **options)
    assert there.manifest["reads"] > 2
    assert_same(here, there)


def test_a_restart(place: DoublePlace, tmp_path: Path) -> None:
    """Leading eigenvalues so large that the rounding of the first products hides the residuals of the others."""
    rows = power_law(N, D, exponent=0.6, leading=(3e3, 1e3))
    store = write_store(tmp_path / "steep", rows, "float32", chunk_rows=97)
    options = {"solver": "krylov", "tolerance": 1e-6, "max_reads": 8}
    here, there = discover_here(store, **options), place.discover(store, **options)
    widths = [len(stage["basis"]) for stage in there.manifest["stages"] if "basis" in stage]
    assert 1 in widths[1:], "no read began anew"
    assert_same(here, there)


@pytest.mark.parametrize("solver", ["covariance", "incremental"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_exact_solver_is_not_rounded(place: DoublePlace, tmp_path: Path, dtype: str, solver: str) -> None:
    """One read ranks what the read before has found: what it rounded away would be lost."""
    store = make_store(tmp_path, dtype)
    here, there = discover_here(store, solver=solver), place.discover(store, solver=solver)
    errors = direction_errors(there.directions.components, here.directions.components.astype(np.float64))
    assert errors.max() <= EXACT
    ratios = [[one["residual"] for one in found.manifest["directions"]] for found in (here, there)]
    np.testing.assert_allclose(ratios[1], ratios[0], rtol=0.05, atol=2e-6)
    assert there.topk["row"].equals(here.topk["row"])


@pytest.mark.parametrize("rank_by", RANKINGS)
@pytest.mark.parametrize("scale", ["none", "layer-rms"])
def test_every_ranking(place: DoublePlace, tmp_path: Path, rank_by: str, scale: str) -> None:
    store = make_store(tmp_path, **LAYERS)
    options = {"rank_by": rank_by, "scale": scale}
    assert_same(discover_here(store, **options), place.discover(store, **options))


@pytest.mark.parametrize("solver", ["covariance", "krylov"])
def test_projections_on_disk(place: DoublePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str) -> None:
    store = make_store(tmp_path)
    roomy = place.discover(store, solver=solver)
    monkeypatch.setattr(plan, "_KEPT_SHARE", 1 << 60)  # no projection stays in memory
    spilled = place.discover(store, solver=solver, scratch=tmp_path / "scratch")
    assert [found.manifest["plan"]["memory"]["spilled"] for found in (roomy, spilled)] == [False, True]
    np.testing.assert_array_equal(spilled.directions.components, roomy.directions.components)
    assert spilled.topk.equals(roomy.topk)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("given", ["alone", "with a mean", "with a mean and a scale", "centred by the store's mean"])
def test_given_directions(place: DoublePlace, tmp_path: Path, dtype: str, given: str) -> None:
    random = np.random.default_rng(0)
    store = make_store(tmp_path, dtype)
    directions = GivenDirections(
        random.standard_normal((3, D)).astype(np.float32),
        random.standard_normal(D) / 10 if "with" in given else None,
        random.uniform(0.5, 2, D).astype(np.float32) if "scale" in given else None,
        "a test",
    )
    options = {"directions": directions, "rank_by": "centered-cosine" if "centred" in given else "raw-cosine"}
    here, there = skillaxes.apply(store, device="cpu", **options), place.apply(store, **options)
    assert there.manifest["reads"] == (2 if "centred" in given else 1)
    np.testing.assert_array_equal(there.directions.components, here.directions.components)
    assert_same(here, there)


def test_rows_that_nearly_cancel(place: DoublePlace, tmp_path: Path) -> None:
    """Rows on the mean and rows much shorter than it are fetched again, from where they were kept on the card."""
    rows = rounded(power_law(N, D, exponent=0.6, mean=50.0), "float32")
    rows[[7, 800]] *= 1e-4
    rows[1500] = rows.mean(axis=0)
    store = write_store(tmp_path / "cancelling", rows, "float32", chunk_rows=97)
    for rank_by in ("raw-cosine", "centered-cosine"):
        assert_same(discover_here(store, rank_by=rank_by), place.discover(store, rank_by=rank_by))


def test_the_card_is_where_the_job_computes(place: DoublePlace, tmp_path: Path) -> None:
    """The double was taken: rows were copied there once, and products launched there."""
    store = make_store(tmp_path)
    place.discover(store, solver="krylov")
    assert place.counts.bytes_to_card >= N * D * torch.float16.itemsize
    assert place.counts.launches["mm"] > 0 and place.counts.launches["addmm_"] > 0
