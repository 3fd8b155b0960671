"""Law: bfloat16 stores are those of the zarr-extensions registry: others read ours and we read theirs, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skillaxes.store import create_store, open_store
from skillaxes.store.dtypes import BFLOAT16, convert

BITS = np.random.default_rng(0).integers(0, 65536, (103, 12), dtype=np.uint16)


def store_of(path: Path, shard_size: int = 0) -> Path:
    with create_store(path, dtype=BFLOAT16, n_rows=103, n_features=12, chunk_rows=8, shard_size=shard_size) as writer:
        writer.append_values(BITS, BFLOAT16)
    return path


@pytest.mark.parametrize("shard_size", [0, 8 * 12 * 2 * 4])
def test_tensorstore_reads_ours(tmp_path: Path, shard_size: int) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    path = store_of(tmp_path / "s.zarr", shard_size)
    opened = tensorstore.open({"driver": "zarr3", "kvstore": f"file://{path}/"}).result()
    assert opened.dtype.name == BFLOAT16
    np.testing.assert_array_equal(opened.read().result().view(np.uint16), BITS)


@pytest.mark.parametrize("codecs", ["plain", "sharded", "zstd"])
def test_we_read_those_of_tensorstore(tmp_path: Path, codecs: str) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    chosen = {
        "plain": [little],
        "zstd": [little, {"name": "zstd", "configuration": {"level": 1}}],
        "sharded": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [8, 12], "codecs": [little]}}],
    }[codecs]
    spec = {
        "driver": "zarr3",
        "kvstore": f"file://{tmp_path}/t.zarr/",
        "metadata": {
            "shape": [103, 12],
            "data_type": BFLOAT16,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [32, 12]}},
            "codecs": chosen,
        },
    }
    opened = tensorstore.open(spec, create=True).result()
    opened.write(BITS.view(opened.dtype.numpy_dtype)).result()
    store = open_store(tmp_path / "t.zarr")
    assert store.dtype == BFLOAT16
    np.testing.assert_array_equal(store.read_rows(0, 103), BITS)
    assert (store.plain_chunks() is not None) == (codecs != "zstd")


@pytest.mark.parametrize("pipeline", ["zarrs.ZarrsCodecPipeline", "zarr.core.codec_pipeline.BatchedCodecPipeline"])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_through_both_pipelines(tmp_path: Path, pipeline: str, endian: str) -> None:
    import zarr
    from zarr.codecs import BytesCodec

    from skillaxes.store.bfloat16 import BFloat16, bfloat16_known

    if pipeline.startswith("zarrs"):
        pytest.importorskip("zarrs")
    with bfloat16_known(), zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.strict": True}):
        array = zarr.create_array(
            tmp_path / "a", shape=BITS.shape, dtype=BFloat16(), chunks=(16, 12), serializer=BytesCodec(endian=endian)
        )
        array[:] = BITS
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "a")[:], BITS)
    np.testing.assert_array_equal(open_store(tmp_path / "a").read_rows(0, 103), BITS)


def test_zarr_is_left_as_it_was(tmp_path: Path) -> None:
    import zarr
    from zarr.dtype import data_type_registry, parse_dtype

    before = dict(data_type_registry.contents)
    store_of(tmp_path / "s.zarr")
    open_store(tmp_path / "s.zarr")
    assert data_type_registry.contents == before
    assert type(parse_dtype("uint16", zarr_format=3)).__name__ == "UInt16"
    array = zarr.create_array(tmp_path / "u", shape=(3, 3), dtype="uint16")
    assert array.metadata.to_dict()["data_type"] == "uint16"


@pytest.mark.parametrize(
    ("json", "bits"),
    [(0.0, 0), (1.0, 0x3F80), ("NaN", 0x7FC0), ("Infinity", 0x7F80), ("-Infinity", 0xFF80), ("0x7fc1", 0x7FC1)],
)
def test_fill_values(json: object, bits: int) -> None:
    from skillaxes.store.bfloat16 import BFloat16

    kind = BFloat16()
    assert kind.from_json_scalar(json, zarr_format=3) == bits
    assert kind.to_json_scalar(np.uint16(bits), zarr_format=3) == json


def test_values_survive(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((103, 12)).astype(np.float32)
    with create_store(tmp_path / "s", dtype=BFLOAT16, n_features=12) as writer:
        writer.append(values)
    np.testing.assert_array_equal(open_store(tmp_path / "s").read_rows(0, 103), convert(values, "float32", BFLOAT16))
