"""The law: what a run folder holds can be read with other people's tools, by the names and types that the docs give."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from support.matrices import power_law, write_store

import skillaxes
from skillaxes.errors import RunFolderError
from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.directions import Directions, read_directions, write_directions
from skillaxes.run_folder.schema import SELECTION, SELECTION_SCHEMA, TOPK, TOPK_SCHEMA
from skillaxes.run_folder.scores import CHUNK_ROWS, ScoresWriter, read_scores

N, D, K = 300, 24, 4


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    write_store(folder / "store", power_law(N, D), layer_ids=(5, 9), hidden=12, ids=[f"t{row}" for row in range(N)])
    skillaxes.discover(folder / "store", folder / "run", components=K)
    return folder / "run"


def test_directions(run_dir: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(run_dir / "directions.safetensors")
    shapes = {name: value.shape for name, value in tensors.items()}
    assert shapes == {
        "components": (K, D),
        "mean": (D,),
        "explained_variance": (K,),
        "explained_variance_ratio": (K,),
        "singular_values": (K,),
        "residuals": (K,),
        "split_half": (K,),
    }
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}


def test_directions_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"components": (K, D), "mean": (D,), "scale": (D,)}
    names = [*Directions.__dataclass_fields__]
    written = Directions(**{name: rng.standard_normal(shapes.get(name, (K,))).astype(np.float32) for name in names})
    write_directions(tmp_path, written)
    for name, value in vars(read_directions(tmp_path)).items():
        np.testing.assert_array_equal(value, getattr(written, name))
    fortran = Directions(**{**vars(written), "components": np.asfortranarray(written.components)})
    write_directions(tmp_path, fortran)
    np.testing.assert_array_equal(read_directions(tmp_path).components, written.components)
    (tmp_path / "directions.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_directions(tmp_path)


def test_tables(run_dir: Path) -> None:
    import pyarrow.parquet as pq

    topk = pq.read_table(run_dir / TOPK)
    assert topk.schema.equals(TOPK_SCHEMA)
    assert topk["trace_id"].to_pylist() == [f"t{row}" for row in topk["row"].to_pylist()]
    selection = pq.read_table(run_dir / SELECTION)
    assert selection.schema.remove_metadata().equals(SELECTION_SCHEMA)
    assert selection["trace_id"].to_pylist() == [f"t{row}" for row in selection["row"].to_pylist()]


def test_scores_are_a_zarr_group(run_dir: Path) -> None:
    import zarr

    group = zarr.open_group(run_dir / "scores.zarr", mode="r")
    assert sorted(group.array_keys()) == ["centered_norm", "norm", "projection"]
    assert group["projection"].shape == (N, K) and group["norm"].shape == group["centered_norm"].shape == (N,)
    for name, values in read_scores(run_dir).items():
        np.testing.assert_array_equal(values, group[name][...])


@pytest.mark.parametrize("n", [1, CHUNK_ROWS, CHUNK_ROWS + 1, 3 * CHUNK_ROWS])
def test_scores_of_any_length(tmp_path: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    projection, norm, centered = rng.random((n, 3), np.float32), rng.random(n, np.float32), rng.random(n, np.float32)
    writer = ScoresWriter(tmp_path / "scores.zarr", n, 3)
    writer.create({"rank_by": "raw-cosine"})
    for start in range(0, n, CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        writer.write(start, projection[part], norm[part], centered[part])
    found = read_scores(tmp_path)
    np.testing.assert_array_equal(found["projection"], projection)
    np.testing.assert_array_equal(found["norm"], norm)
    np.testing.assert_array_equal(found["centered_norm"], centered)


def test_no_scores(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds no scores.zarr"):
        read_scores(tmp_path)


def test_the_manifest_tells_the_whole_story(run_dir: Path) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format_version"] == 1 and manifest["command"] == "discover" and manifest["status"] == "done"
    assert set(manifest["config"]) >= {"components", "top", "solver", "tolerance", "seed", "rank_by", "layers", "scale"}
    assert manifest["store"]["shape"] == [N, D] and manifest["store"]["layer_ids"] == [5, 9]
    assert len(manifest["store"]["fingerprint"]) == 64
    assert manifest["versions"].keys() >= {"python", "torch", "numpy", "zarr"}
    assert manifest["machine"].keys() == {"platform", "cpu", "threads", "memory_bytes", "device"}
    assert {stage["status"] for stage in manifest["stages"]} == {"done"}
    for stage in manifest["stages"]:
        assert stage.keys() >= {"name", "status", "seconds", "reads", "bytes", "peak_memory_bytes"}
    assert sum(stage["reads"] for stage in manifest["stages"]) == manifest["reads"]
    assert sum(stage["bytes"] for stage in manifest["stages"]) == manifest["bytes_read"]
    assert manifest["peak_memory_bytes"] >= max(stage["peak_memory_bytes"] for stage in manifest["stages"])
    assert len(manifest["directions"]) == K
    for number, one in enumerate(manifest["directions"]):
        assert one["index"] == number
        assert one["bound"] in ("rigorous", "estimated") and 0 <= one["angle_bound"] <= np.pi / 2
        assert set(one["certified"]) == {"positive", "negative"}


def test_no_file_is_closed_to_others(run_dir: Path) -> None:
    """A run folder on a shared disk is for colleagues too."""
    for path in run_dir.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & stat.S_IRUSR
            assert bool(path.stat().st_mode & stat.S_IRGRP) == bool(
                (run_dir / "manifest.json").stat().st_mode & stat.S_IRGRP
            )


def test_what_json_does_not_know(tmp_path: Path) -> None:
    value = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "whole": np.int64(3),
        "tuple": (1, np.float64(0.5)),
        "flag": np.bool_(True),
        7: "key",
    }
    manifests.write_manifest(tmp_path, {"format_version": 1, **value})
    read = manifests.read_manifest(tmp_path)
    assert read == {
        "format_version": 1,
        "nan": None,
        "inf": None,
        "whole": 3,
        "tuple": [1, 0.5],
        "flag": True,
        "7": "key",
    }


def test_clear_takes_what_is_ours(tmp_path: Path) -> None:
    (tmp_path / "scores.zarr" / "norm").mkdir(parents=True)
    for name in ("manifest.json", "topk.parquet", "labels.jsonl", "notes.md"):
        (tmp_path / name).write_text("x")
    manifests.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]
