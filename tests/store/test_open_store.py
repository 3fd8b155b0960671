"""Law: a store that cannot be used is refused at the door, in one line that says what was given and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skillaxes.errors import StoreError
from skillaxes.store import create_store, open_store

Foreign = Callable[..., Path]


def refusal(path: Path | str, **options: object) -> str:
    with pytest.raises(StoreError) as caught:
        open_store(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    assert caught.value.exit_code == 2
    return message


def test_missing(tmp_path: Path) -> None:
    assert "there is no store at" in refusal(tmp_path / "none.zarr")
    assert "skillaxes ingest" in refusal(tmp_path / "none.zarr")


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, np.zeros((2, 2)))
    assert "is a file; needed: a zarr store" in refusal(file)


def test_a_folder_without_zarr(tmp_path: Path) -> None:
    assert "neither zarr.json nor .zarray" in refusal(tmp_path)


def test_damaged_metadata(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{")
    assert "cannot be opened as a zarr store" in refusal(tmp_path)


def test_a_group_names_its_arrays(tmp_path: Path) -> None:
    import zarr

    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("acts", shape=(4, 3), dtype="f4")
    group.create_array("deep/other", shape=(5, 3), dtype="f4")
    message = refusal(tmp_path / "g.zarr")
    assert "is a zarr group" in message and "acts (4, 3)" in message and "deep/other (5, 3)" in message
    assert open_store(tmp_path / "g.zarr" / "acts").shape == (4, 3)


def test_an_empty_group(tmp_path: Path) -> None:
    import zarr

    zarr.create_group(tmp_path / "g.zarr")
    assert "a zarr group without arrays" in refusal(tmp_path / "g.zarr")


@pytest.mark.parametrize("shape", [(5,), (2, 2, 2, 2)])
def test_wrong_dimensions(foreign: Foreign, shape: tuple[int, ...]) -> None:
    assert "needed: (rows, features) or (rows, layers, hidden)" in refusal(foreign(np.zeros(shape, np.float32)))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_in_it(foreign: Foreign, shape: tuple[int, ...]) -> None:
    assert "there is nothing in it" in refusal(foreign(np.zeros(shape, np.float32), chunks=(1, 1)))


@pytest.mark.parametrize("dtype", ["int32", "uint16", "bool", "complex64"])
def test_not_floating(foreign: Foreign, dtype: str) -> None:
    message = refusal(foreign(np.zeros((4, 3), dtype)))
    assert f"holds {dtype}" in message and "x.astype('float32')" in message


def test_attributes_that_do_not_fit(foreign: Foreign, rows: np.ndarray) -> None:
    path = foreign(rows, attributes={"layer_ids": [1, 2, 3], "hidden": 5})
    assert "3 layer_ids x hidden 5 = 15 columns, but a row has 12" in refusal(path)


def test_unknown_layers(foreign: Foreign, rows: np.ndarray) -> None:
    known = foreign(rows, attributes={"layer_ids": [3, 7, 11], "hidden": 4})
    assert "layer 8 is not in" in refusal(known, layers=[3, 8])
    assert "its layers are 3, 7, 11" in refusal(known, layers=[])
    silent = foreign(rows, "silent.zarr")
    assert "does not say which layers its columns are" in refusal(silent, layers=[3])


def test_columns_of_layers(foreign: Foreign, rows: np.ndarray) -> None:
    store = open_store(foreign(rows, attributes={"layer_ids": [3, 7, 11]}))
    assert store.attributes.hidden == 4  # follows from the width
    assert store.columns == (slice(0, 12),)
    assert store.columns_of([11, 3]) == (slice(0, 4), slice(8, 12))
    assert store.columns_of([7, 3]) == (slice(0, 8),)  # adjacent ones are one slice
    chosen = open_store(store.path, layers=[7])
    assert chosen.columns == (slice(4, 8),) and chosen.n_features == 12


def test_three_dimensions(foreign: Foreign, rows: np.ndarray) -> None:
    store = open_store(foreign(rows.reshape(103, 3, 4), chunks=(16, 3, 4)))
    assert (store.n_rows, store.n_features, store.attributes.hidden) == (103, 12, 4)
    np.testing.assert_array_equal(store.read_rows(5, 40), rows[5:40])


def test_unfinished_says_so(tmp_path: Path, rows: np.ndarray) -> None:
    writer = create_store(tmp_path / "s.zarr", dtype="float16", n_features=12, n_rows=103)
    writer.append(rows[:50])
    assert "is unfinished" in refusal(tmp_path / "s.zarr")


def test_the_pipeline_can_be_asked(foreign: Foreign, rows: np.ndarray) -> None:
    from zarr.codecs import Crc32cCodec

    pytest.importorskip("zarrs")
    assert open_store(foreign(rows, "z")).pipeline == "zarrs"
    checked = open_store(foreign(rows, "c", compressors=[Crc32cCodec()]))
    assert checked.pipeline == "zarr" and "crc32c" in checked.pipeline_reason


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
def test_a_codec_that_zarrs_declines_falls_back_with_the_reason(foreign: Foreign, rows: np.ndarray) -> None:
    from zarr.codecs.numcodecs import Delta

    store = open_store(foreign(rows.astype(np.float32), filters=[Delta(dtype="<f4")]))
    np.testing.assert_allclose(store.read_rows(0, 103), rows, atol=1e-4)
    assert store.pipeline == "zarr" and store.pipeline_reason.startswith("zarrs declined")


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_a_codec_that_unpickles_is_refused(foreign: Foreign, rows: np.ndarray, tmp_path: Path, place: str) -> None:
    """numcodecs has one; a chunk of such a store would run what it says."""
    path = foreign(rows, chunks=(103, 12), compressors=None, zarr_format=2)
    metadata = json.loads((path / ".zarray").read_text())
    metadata[place] = [{"id": "pickle"}] if place == "filters" else {"id": "pickle"}
    (path / ".zarray").write_text(json.dumps(metadata))
    (path / "0.0").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "it-ran").encode() + b"'\ntR.")
    with pytest.raises(StoreError):
        open_store(path).read_rows(0, 1)
    assert not (tmp_path / "it-ran").exists()


def test_opening_changes_no_configuration_of_zarr(foreign: Foreign, rows: np.ndarray) -> None:
    import zarr

    before = zarr.config.get("codec_pipeline.path"), zarr.config.get("codec_pipeline.strict", None)
    open_store(foreign(rows))
    assert (zarr.config.get("codec_pipeline.path"), zarr.config.get("codec_pipeline.strict", None)) == before


def test_a_url(rows: np.ndarray) -> None:
    """Through fsspec: no plain files, and what is missing is still found."""
    fsspec = pytest.importorskip("fsspec")
    import zarr

    array = zarr.create_array("memory://bucket/acts.zarr", shape=rows.shape, dtype=rows.dtype, chunks=(16, 12))
    array[:] = rows
    store = open_store("memory://bucket/acts.zarr")
    np.testing.assert_array_equal(store.read_rows(3, 90), rows[3:90])
    assert store.plain_chunks() is None and store.plain_reason == "the store is not a local folder"
    assert store.missing_chunks() == []
    fsspec.filesystem("memory").rm("/bucket/acts.zarr/c/2/0")
    assert open_store("memory://bucket/acts.zarr").missing_chunks() == [2]


def test_out_of_range_rows_are_a_bug_of_the_caller(foreign: Foreign, rows: np.ndarray) -> None:
    store = open_store(foreign(rows))
    with pytest.raises(IndexError):
        store.read_rows(0, 104)
    with pytest.raises(ValueError, match="C-ordered"):
        store.read_rows(0, 5, np.empty((5, 12), np.float32))


def test_a_damaged_chunk_names_its_rows(tmp_path: Path, rows: np.ndarray) -> None:
    path = tmp_path / "s.zarr"
    with create_store(path, dtype="float16", n_features=12, n_rows=103, chunk_rows=16) as writer:
        writer.append(rows)
    chunk = path / "c" / "2" / "0"
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(content)
    store = open_store(path)
    store.read_rows(0, 32)
    with pytest.raises(StoreError, match=r"rows 32 to 39 of .* cannot be read .*checksum.*damaged there"):
        store.read_rows(32, 40)
