"""The law: the block of the read that is foreseen as the last is narrow, and a forecast that was wrong costs reads, not
exactness; with every implementation of the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.matrices import Exact, direction_errors, power_law, rounded, write_store, wrong_lists
from support.stopping import differing, discover, stopped, written

import skillaxes
from skillaxes.pca import krylov
from skillaxes.run import plan

K, WIDE, NARROW = 10, 48, 16

pytestmark = pytest.mark.usefixtures("cpu_backend")


@pytest.fixture(scope="module")
def exact() -> Exact:
    return Exact(rounded(power_law(2200, 1400, exponent=0.6), "float16"))


@pytest.fixture
def store(exact: Exact, tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", exact.rows, "float16", chunk_rows=300)


def widths(found: skillaxes.Discovery) -> list[int]:
    """Columns of the block of each read; of its two products they are the same."""
    products = [stage["products"] for stage in found.manifest["stages"] if "products" in stage]
    assert all(project["columns"] == accumulate["columns"] for project, accumulate in products)
    return [project["columns"] for project, _ in products]


def assert_right(found: skillaxes.Discovery, exact: Exact) -> None:
    assert found.manifest["solver"]["converged"]
    assert direction_errors(found.directions.components, exact.components[:K]).max() <= 1e-6
    assert not wrong_lists(found, exact)


@pytest.mark.usefixtures("n_threads")
def test_the_last_block_is_narrow(store: Path, exact: Exact) -> None:
    found = skillaxes.discover(store)
    assert widths(found) == [WIDE, WIDE, NARROW]
    assert_right(found, exact)


@pytest.mark.parametrize("wrong", [1, 2])
def test_a_wrong_forecast(store: Path, exact: Exact, monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    """The read after it takes up what all pairs lack, not only those that the narrow block served."""
    tolerance = 2e-5
    told = skillaxes.discover(store, tolerance=tolerance, max_reads=12)
    assert NARROW not in widths(told)[: wrong + 1]

    def foreseen(worst: Sequence[float], tolerance: float) -> bool:
        return len(worst) == wrong

    monkeypatch.setattr(krylov, "is_last", foreseen)
    found = skillaxes.discover(store, tolerance=tolerance, max_reads=12)
    assert widths(found)[: wrong + 2] == [*[WIDE] * wrong, NARROW, WIDE]
    assert len(widths(found)) <= len(widths(told)) + 1
    assert_right(found, exact)


@pytest.mark.parametrize("panels", [1, 5])
@pytest.mark.parametrize("read", ["read 3", "read 4"])
def test_stopped_in_a_narrow_read_and_after_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str, panels: int
) -> None:
    options = {"tolerance": 2e-5, "max_reads": 12}
    monkeypatch.setattr(plan, "panel_rows_for", lambda row_bytes, roomy=True: 256)
    monkeypatch.setattr(krylov, "is_last", lambda worst, tolerance: len(worst) == 2)
    skillaxes.discover(store, tmp_path / "undisturbed", **options)
    stopped(discover, store, tmp_path / "run", read, panels, **options)
    found = skillaxes.discover(store, tmp_path / "run", **options)
    assert widths(found)[:4] == [WIDE, WIDE, NARROW, WIDE]
    assert not differing(tmp_path / "run", written(tmp_path / "undisturbed"))
