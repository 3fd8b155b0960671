"""Law: attributes are checked against the rows and never guessed; the fingerprint knows the rows and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skillaxes.errors import StoreError
from skillaxes.store import StoreAttributes, create_store, open_store
from skillaxes.store.attributes import fit, parse

Foreign = Callable[..., Path]


def test_nothing_is_guessed() -> None:
    assert parse({"something": "else"}) == StoreAttributes()
    assert fit(StoreAttributes(), (12,)) == StoreAttributes()
    assert fit(StoreAttributes(), (3, 4)).hidden == 4
    assert fit(StoreAttributes(layer_ids=(1, 2)), (12,)).hidden == 6
    assert fit(StoreAttributes(hidden=4), (12,)).layer_ids is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer_ids": "3,7"}, "layer_ids is '3,7'; needed: a list"),
        ({"layer_ids": []}, "layer_ids is []"),
        ({"layer_ids": [3, 3]}, "names layer 3 twice"),
        ({"layer_ids": [True]}, "layer_ids is [True]"),
        ({"hidden": 0}, "hidden is 0"),
        ({"hidden": "576"}, "hidden is '576'"),
        ({"model": 3}, "model is 3; needed: a text"),
        ({"token_range": [5, 2]}, "token_range is [5, 2]"),
        ({"token_range": 160}, "token_range is 160"),
    ],
)
def test_wrong_attributes(given: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError) as caught:
        parse(given)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["the answer only", (1, 160), (1, None), (0, 1)])
def test_token_ranges(value: Any) -> None:
    assert parse({"token_range": list(value) if isinstance(value, tuple) else value}).token_range == value


@pytest.mark.parametrize(
    ("attributes", "row_shape", "message"),
    [
        (StoreAttributes(layer_ids=(1, 2), hidden=5), (12,), "2 layer_ids x hidden 5 = 10 columns, but a row has 12"),
        (StoreAttributes(layer_ids=(1, 2, 3, 4, 5)), (12,), "5 layer_ids do not divide the 12 columns"),
        (StoreAttributes(hidden=5), (12,), "hidden 5 does not divide the 12 columns"),
        (StoreAttributes(hidden=5), (3, 4), "have 4 columns a layer"),
        (StoreAttributes(layer_ids=(1, 2)), (3, 4), "layer_ids names 2 layers, but rows of shape (3, 4) have 3"),
    ],
)
def test_attributes_that_do_not_fit(attributes: StoreAttributes, row_shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(StoreError) as caught:
        fit(attributes, row_shape)
    assert message in str(caught.value)


def test_the_fingerprint_knows_rows_not_places(foreign: Foreign, rows: np.ndarray, tmp_path: Path) -> None:
    layouts: dict[str, dict[str, Any]] = {
        "a": {"chunks": (16, 12)},
        "b": {"chunks": (5, 7), "attributes": {"model": "m"}},
        "c": {"chunks": (8, 12), "shards": (32, 12), "compressors": None},
        "d": {"chunks": (103, 12), "zarr_format": 2, "dtype": ">f2"},
    }
    found = {open_store(foreign(rows, name, **options)).fingerprint() for name, options in layouts.items()}
    found.add(open_store(foreign(rows.reshape(103, 3, 4), "e")).fingerprint())
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    found.add(open_store(tmp_path / "copy").fingerprint())
    assert len(found) == 1
    others = [
        open_store(foreign(rows[:-1], "f")).fingerprint(),
        open_store(foreign(rows.astype(np.float32), "g")).fingerprint(),
        open_store(foreign(rows[::-1], "h")).fingerprint(),
        open_store(foreign(rows.reshape(206, 6), "i")).fingerprint(),
    ]
    assert len(found.union(others)) == 5


def test_half_precisions_of_equal_bits_differ(tmp_path: Path, rows: np.ndarray) -> None:
    prints = []
    for dtype in ("float16", "bfloat16"):
        with create_store(tmp_path / dtype, dtype=dtype, n_features=12) as writer:
            writer.append_values(rows.view(np.uint16) if dtype == "bfloat16" else rows, dtype)
        prints.append(open_store(tmp_path / dtype).fingerprint())
    assert prints[0] != prints[1]


def test_many_ids_lie_in_parquet(tmp_path: Path) -> None:
    count = 150_000  # several row groups
    with create_store(tmp_path / "s", dtype="float16", n_features=2) as writer:
        writer.append(np.ones((count, 2), np.float16), [f"t{row}" if row % 7 else None for row in range(count)])
    store = open_store(tmp_path / "s")
    assert store.array.attrs["trace_ids"] == {"parquet": "trace_ids.parquet"}
    assert store.trace_ids([149_999, 3, 65_536, 65_535, 7, 3]) == ["t149999", "t3", "t65536", "t65535", None, "t3"]
    assert store.trace_ids([]) == []
    with pytest.raises(IndexError):
        store.trace_ids([count])
    (tmp_path / "s" / "trace_ids.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"trace ids of the store, .* cannot be read"):
        store.trace_ids([0])


def test_ids_that_cannot_be(foreign: Foreign, rows: np.ndarray) -> None:
    def refused(kept: object, name: str) -> str:
        store = open_store(foreign(rows, name, attributes={"trace_ids": kept}))
        with pytest.raises(StoreError) as caught:
            store.trace_ids([0])
        return str(caught.value)

    assert "has 2 trace_ids for 103 rows" in refused(["a", "b"], "a")
    assert "needed: a list, or" in refused("a,b", "b")
    assert "needed: a file inside the store" in refused({"parquet": "../../secret.parquet"}, "c")
    assert "needed: a file inside the store" in refused({"parquet": "/etc/passwd"}, "d")
    assert open_store(foreign(rows, "e")).trace_ids([0, 5]) == [None, None]
