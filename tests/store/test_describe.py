"""Law: inspect says what numpy says about the same rows, and its answer is JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from skillaxes.errors import StoreError
from skillaxes.store import create_store
from skillaxes.store.describe import inspect
from skillaxes.store.dtypes import DTYPES, convert, widen

N_ROWS, LAYERS, HIDDEN = 203, (3, 7, 11), 8


def rows() -> np.ndarray:
    """A mean far larger than the spread, a huge column, zero, bad and equal rows."""
    values = np.random.default_rng(0).standard_normal((N_ROWS, 24)) * np.repeat([0.1, 1, 3], 8) + 20
    values[:, 5] = 500
    values[[7, 80]] = 0
    values[[9, 150], [3, 4]] = np.nan
    values[60, 23] = -np.inf
    values[100] = values[20]
    values[202] = values[20]
    return values


def write(path: Path, values: np.ndarray, dtype: str = "float32", **options: object) -> Path:
    known = {"layer_ids": LAYERS, "hidden": HIDDEN, **options}
    with create_store(path, dtype=dtype, n_features=24, **known) as writer:  # type: ignore[arg-type]
        writer.append(values)
    return path


def test_without_a_scan(tmp_path: Path) -> None:
    found = inspect(write(tmp_path / "s", np.ones((N_ROWS, 24)), model="m"))
    json.dumps(found)
    assert "scan" not in found
    assert (found["rows"], found["columns"], found["dtype"], found["bytes"]) == (203, 24, "float32", 203 * 96)
    assert found["chunks"] == {
        "shape": [12, 24],
        "rows": 12,
        "count": 17,
        "bytes": 12 * 96,
        "shard_rows": 0,
        "missing": 0,
        "first_missing": [],
    }
    assert found["reading"]["plain"] is True
    assert found["attributes"]["layer_ids"] == [3, 7, 11] and found["attributes"]["model"] == "m"
    assert found["attributes"]["revision"] is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scan_is_what_numpy_says(tmp_path: Path, dtype: str) -> None:
    stored = widen(convert(rows(), "float64", dtype), dtype).astype(np.float64)
    found = inspect(write(tmp_path / "s", rows(), dtype), scan=True)
    json.dumps(found, allow_nan=False)
    scan = found["scan"]
    assert scan["nan_rows"] == {"count": 2, "first": [9, 150]}
    assert scan["infinite_rows"] == {"count": 1, "first": [60]}
    assert scan["zero_rows"] == {"count": 2, "first": [7, 80]}
    assert scan["duplicate_rows"] == {"count": 2, "first": [[100, 20], [202, 20]]}
    assert (scan["rows_read"], scan["rows_in_missing_chunks"]) == (203, 0)
    good = stored[np.isfinite(stored).all(axis=1)]
    norms = np.linalg.norm(good, axis=1)
    norms = norms[norms > 0]
    assert scan["norm"]["smallest"] == pytest.approx(norms.min())
    assert scan["norm"]["median"] == pytest.approx(np.median(norms))
    assert scan["norm"]["largest"] == pytest.approx(norms.max())
    assert scan["norm"]["of_the_mean_row"] == pytest.approx(np.linalg.norm(good.mean(axis=0)))
    for entry, columns in (("variance_by_layer", good.var(axis=0)), ("energy_by_layer", (good**2).mean(axis=0))):
        by_layer = columns.reshape(3, 8).sum(axis=1)
        expected = dict(zip(["3", "7", "11"], by_layer / by_layer.sum(), strict=True))
        assert scan[entry] == pytest.approx(expected)


def test_unknown_layers_stay_unknown(tmp_path: Path) -> None:
    flat = inspect(write(tmp_path / "a", rows(), layer_ids=None, hidden=None), scan=True)["scan"]
    assert flat["variance_by_layer"] is None and flat["energy_by_layer"] is None
    layered = inspect(write(tmp_path / "b", rows(), layer_ids=None, layered=True), scan=True)["scan"]
    assert list(layered["variance_by_layer"]) == ["place 0", "place 1", "place 2"]


def test_missing_chunks_are_counted_and_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "s", np.ones((N_ROWS, 24)))
    for chunk in (0, 5, 16):
        (path / "c" / str(chunk) / "0").unlink()
    found = inspect(path, scan=True)
    assert found["chunks"]["missing"] == 3 and found["chunks"]["first_missing"] == [0, 5, 16]
    assert found["fingerprint"] is None
    assert found["scan"]["rows_in_missing_chunks"] == 12 + 12 + 11
    assert found["scan"]["rows_read"] == N_ROWS - 35
    assert found["scan"]["zero_rows"]["count"] == 0  # a lost chunk is no rows of zeros


def test_nothing_but_bad_rows(tmp_path: Path) -> None:
    scan = inspect(write(tmp_path / "s", np.full((20, 24), np.nan)), scan=True)["scan"]
    json.dumps(scan, allow_nan=False)
    assert scan["nan_rows"]["count"] == 20 and scan["norm"]["median"] is None


def test_a_damaged_store(tmp_path: Path) -> None:
    path = write(tmp_path / "s", np.ones((N_ROWS, 24)))
    content = bytearray((path / "c" / "3" / "0").read_bytes())
    content[0] ^= 1
    (path / "c" / "3" / "0").write_bytes(content)
    inspect(path)
    with pytest.raises(StoreError, match="cannot be read"):
        inspect(path, scan=True)


def test_the_sample_store() -> None:
    """The store in bench/sample is whole, and its ids are those of its traces."""
    folder = Path(__file__).resolve().parents[2] / "bench" / "sample"
    found = inspect(folder / "activations.zarr", scan=True)
    assert found["shape"] == [1000, 2304] and found["chunks"]["count"] > 8 and found["chunks"]["missing"] == 0
    assert found["scan"]["nan_rows"]["count"] == found["scan"]["zero_rows"]["count"] == 0
    assert found["attributes"]["layer_ids"] == [7, 15, 23, 28]
    traces = [json.loads(line) for line in (folder / "traces.jsonl").read_text(encoding="utf-8").splitlines()]
    from skillaxes.store import open_store

    assert open_store(folder / "activations.zarr").trace_ids(range(1000)) == [trace["id"] for trace in traces]
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 6_000_000
