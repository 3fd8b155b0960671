"""The law: the floor is the arithmetic of measured rates and of the work that the manifest states, nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from bench.machine import Rate, Speeds, stage_floors, totals


def rates() -> list[Rate]:
    """A machine that reads 2 B/s, converts 4 elements/s and multiplies 8 (16 in bfloat16) operations a second."""
    return [
        Rate("read", "1 threads", "bytes", 2, (1.0, 1.0, 4.0)),
        Rate("read", "2 threads", "bytes", 1, (1.0,)),
        Rate("memory", "sum", "bytes", 32, (1.0,)),
        Rate("convert", "float16 to float32, 2 rows", "elements", 4, (1.0,)),
        Rate("project", "float32, 2 rows, 3 columns, X @ W", "flops", 8, (1.0, 1.0, 0.5)),
        Rate("accumulate", "float32, 2 rows, 3 columns, Z += X' S", "flops", 4, (1.0,)),
        Rate("accumulate", "float32, 2 rows, 3 columns, Z' += S' X", "flops", 8, (1.0,)),
        Rate("project", "bfloat16, 2 rows, 3 columns, X @ W", "flops", 16, (1.0,)),
        Rate("accumulate", "bfloat16, 2 rows, 3 columns, Z += X' S", "flops", 16, (1.0,)),
    ]


def products(dtype: str, rows: int = 10, columns: int = 3) -> list[dict[str, Any]]:
    """Both products of a read, as the stage of a Krylov read states them."""
    shape = {"rows": rows, "columns": columns}
    return [{"kind": kind, "dtype": dtype, **shape} for kind in ("project", "accumulate")]


def manifest(*stages: dict[str, Any]) -> dict[str, Any]:
    return {
        "store": {"n_rows": 10, "n_features": 6, "dtype": "float16"},
        "stages": list(stages),
        "seconds": 200.0,
    }


def test_speeds_are_the_best_form_s_median_or_best_sample() -> None:
    speeds = Speeds.of(rates())
    assert (speeds.read, speeds.memory, speeds.convert) == (2, 32, 4)
    assert speeds.products["project", "float32"] == 8
    assert speeds.products["accumulate", "float32"] == 8
    assert Speeds.of(rates(), "best").products["project", "float32"] == 16


def test_samples_before_and_after_a_job_belong_together() -> None:
    late = Rate("read", "1 threads", "bytes", 2, (4.0, 4.0, 4.0, 4.0))
    assert Speeds.of([*rates(), late]).read == 1  # the other form's: 2 bytes in 4 seconds is slower


def test_a_read_is_charged_with_bytes_conversion_and_both_products() -> None:
    read = {"name": "read 1", "seconds": 190.0, "reads": 1.0, "bytes": 120, "basis": [3]}
    (stage,) = stage_floors(manifest({**read, "products": products("float32")}), Speeds.of(rates()))
    work = 2 * 10 * 6 * 3
    assert stage.parts == {"read": 60, "convert": 15, "project": work / 8, "accumulate": work / 8}
    assert stage.as_dict()["multiple"] == pytest.approx(190 / (60 + 15 + work / 4))


def test_rows_from_a_cache_cost_no_read() -> None:
    read = {"name": "read 2", "seconds": 1.0, "reads": 1.0, "bytes": 0, "products": products("float32")}
    (stage,) = stage_floors(manifest(read), Speeds.of(rates()))
    assert set(stage.parts) == {"convert", "project", "accumulate"}


def test_stated_products_are_taken_as_they_are() -> None:
    job = manifest({"name": "read 1", "seconds": 1.0, "reads": 1.0, "bytes": 0, "products": products("bfloat16")})
    (floor,) = stage_floors(job, Speeds.of(rates()))
    assert floor.parts == {"convert": 15, "project": 22.5, "accumulate": 22.5}
    job["store"]["dtype"] = "bfloat16"  # what the product takes: nothing is converted
    (floor,) = stage_floors(job, Speeds.of(rates()))
    assert floor.parts == {"project": 22.5, "accumulate": 22.5}


def test_a_stage_is_charged_by_what_it_states_and_not_by_its_name() -> None:
    """Also the read of a solver that multiplies in its own way: its products are nobody's guess."""
    other = {"name": "covariance", "seconds": 1.0, "reads": 1.0, "bytes": 4, "products": products("float32", columns=1)}
    named = {"name": "read 1", "seconds": 1.0, "reads": 1.0, "bytes": 4}
    floors = stage_floors(manifest(other, named), Speeds.of(rates()))
    assert [set(floor.parts) for floor in floors] == [{"read", "convert", "project", "accumulate"}, {"read"}]


def test_a_product_without_a_rate_is_an_error() -> None:
    stage = {"name": "read 1", "seconds": 1.0, "reads": 1.0, "bytes": 0, "products": products("float8", 1, 1)}
    with pytest.raises(ValueError, match="float8"):
        stage_floors(manifest(stage), Speeds.of(rates()))


def test_other_stages_have_no_floor_but_count_in_the_total() -> None:
    job = manifest(
        {"name": "sample", "seconds": 3.0, "reads": 0.0, "bytes": 4},
        {"name": "ranking", "seconds": 7.0, "reads": 0.0, "bytes": 0},
    )
    floors = stage_floors(job, Speeds.of(rates()))
    assert [floor.floor for floor in floors] == [2, 0]
    assert floors[1].as_dict()["multiple"] is None
    whole = totals(job, 300.0, floors)
    assert (whole["engine_multiple"], whole["wall_multiple"], whole["without_floor_seconds"]) == (100, 150, 7)
