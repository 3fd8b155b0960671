"""Law: ingest ends with a verified store under its name, or with one line and nothing on the disk."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skillaxes.errors import InputError, SkillaxesError, SourceError, StoreError
from skillaxes.ingest import ingest
from skillaxes.ingest import ingestion as module
from skillaxes.progress import Silent
from skillaxes.store import open_store

ENGINE = str(Path(__file__).resolve().parents[2] / "engine")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32))
    return tmp_path / "x.npy"


def refusal(source: Path, kind: type[SkillaxesError] = SourceError, **options: Any) -> str:
    """The message; nothing must be left, and an old store must be untouched."""
    folder = source.parent
    target = options.pop("store", folder / "new.zarr")
    before = sorted(str(path) for path in folder.rglob("*"))
    with pytest.raises(kind) as caught:
        ingest(source, target, **options)
    assert sorted(str(path) for path in folder.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 2
    return message


def save(path: Path, content: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, content, allow_pickle=False)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".pt":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def test_everything_that_is_known_is_kept(tmp_path: Path, source: Path) -> None:
    summary = ingest(
        source,
        tmp_path / "s.zarr",
        layer_ids=[3, 7, 11],
        hidden=4,
        model="m",
        revision="r",
        hook="h",
        pooling="mean",
        token_range="the answer",
        trace_ids=[f"t{row}" for row in range(200)],
        shard_size=12 * 4 * 48,
    )
    store = open_store(tmp_path / "s.zarr")
    assert store.attributes.layer_ids == (3, 7, 11) and store.attributes.token_range == "the answer"
    assert store.trace_ids([199]) == ["t199"]
    assert summary.shard_rows == 48 and summary.n_chunks == 17 and summary.chunk_rows == 12
    json.dumps(summary.as_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.zarr", "x.npy"]


def test_bad_rows_are_kept_and_named(tmp_path: Path) -> None:
    class Notes(Silent):
        def __init__(self) -> None:
            self.texts: list[str] = []

        def note(self, text: str) -> None:
            self.texts.append(text)

    values = np.ones((300, 4), np.float16)
    values[5, 1], values[299, 0], values[7, 2] = np.nan, np.inf, -np.inf
    notes = Notes()
    summary = ingest(save(tmp_path / "x.npy", values), tmp_path / "s.zarr", progress=notes)
    assert (summary.bad_rows, summary.first_bad_rows) == (3, (5, 7, 299))
    assert notes.texts == ["rows 5, 7 and 299 hold NaN or infinity (3 in all)"]
    np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").read_rows(0, 300), values)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".txt", ".parquet"])
def test_ids_from_a_file(tmp_path: Path, source: Path, suffix: str) -> None:
    ids = [f"id-{row}" for row in range(200)]
    path = tmp_path / f"ids{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": name, "text": "x"}) + "\n" for name in ids))
    elif suffix == ".json":
        path.write_text(json.dumps(ids))
    elif suffix == ".txt":
        path.write_text("\n".join(ids) + "\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"trace_id": ids}), path)
    summary = ingest(source, tmp_path / "s.zarr", trace_ids=path)
    assert summary.has_trace_ids and open_store(tmp_path / "s.zarr").trace_ids([0, 199]) == ["id-0", "id-199"]


def test_an_existing_store(tmp_path: Path, source: Path) -> None:
    ingest(source, tmp_path / "s.zarr")
    old = open_store(tmp_path / "s.zarr").fingerprint()
    assert "exists already" in refusal(source, StoreError, store=tmp_path / "s.zarr")
    # Whatever goes wrong later, the old store stays until the new one is verified.
    bad = save(tmp_path / "bad.npy", np.full((30, 4), 1e5, np.float32))
    refusal(bad, store=tmp_path / "s.zarr", overwrite=True, dtype="float16")
    assert open_store(tmp_path / "s.zarr").fingerprint() == old
    ingest(bad, tmp_path / "s.zarr", overwrite=True)
    assert open_store(tmp_path / "s.zarr").n_rows == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.npy", "s.zarr", "x.npy"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    assert "is not a zarr array" in refusal(source, StoreError, store=tmp_path / "photos", overwrite=True)
    assert "is a file" in refusal(source, StoreError, store=source / "below")


def test_no_room(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 5000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    assert "GB free; make room" in refusal(source)


class Meddling(Silent):
    """Does something as the verification begins."""

    def __init__(self, deed: Any) -> None:
        self._deed = deed

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "rows", unit_bytes: int = 0) -> Iterator[Any]:
        if name == "verify":
            self._deed()
        with super().stage(name, total, unit=unit, unit_bytes=unit_bytes) as stage:
            yield stage


def test_the_verification_reads_the_store(source: Path) -> None:
    chunks = source.parent / "new.zarr.ingest" / "c"

    def swap() -> None:  # both chunks are sound, the rows are not where they belong
        (chunks / "0" / "0").rename(chunks / "x")
        (chunks / "1" / "0").rename(chunks / "0" / "0")
        (chunks / "x").rename(chunks / "1" / "0")

    def flip() -> None:
        content = bytearray((chunks / "3" / "0").read_bytes())
        content[10] ^= 4
        (chunks / "3" / "0").write_bytes(content)

    assert "read back differently than they were written" in refusal(source, StoreError, progress=Meddling(swap))
    assert "cannot be read" in refusal(source, StoreError, progress=Meddling(flip))
    lost = refusal(source, StoreError, progress=Meddling((chunks / "2" / "0").unlink))
    assert "read back differently" in lost


def test_an_interruption_leaves_nothing(source: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(source, source.parent / "new.zarr", progress=Meddling(interrupt))
    assert [path.name for path in source.parent.iterdir()] == ["x.npy"]


def test_what_a_killed_ingest_left_is_replaced(source: Path) -> None:
    left = source.parent / "new.zarr.ingest"
    left.mkdir()
    (left / "zarr.json").write_text("{}")
    ingest(source, source.parent / "new.zarr")
    assert not left.exists()


MEASURED = """
import re, sys
from pathlib import Path
from skillaxes.ingest import ingest
import crc32c, numpy, zarr, zarrs, pyarrow.parquet
from skillaxes.store import open_store
ingest(sys.argv[1], sys.argv[2] + ".small")
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
summary = ingest(sys.argv[3], sys.argv[2])
print(peak() - before, summary.bounded)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["npy", "npy fortran", "pkl tensor", "pt", "pt old", "safetensors", "parquet"])
def test_bounded_memory(tmp_path: Path, kind: str) -> None:
    """A file of 240 MB costs far less, whatever the format."""
    file = tmp_path / f"x.{kind.partition(' ')[0]}"
    few = np.random.default_rng(0).integers(0, 30_000, (100, 4000), dtype=np.uint16).view(np.float16)
    values = np.tile(few, (300, 1))
    tensor = torch.from_numpy(values)
    if kind == "npy":
        np.save(file, values)
    elif kind == "npy fortran":
        np.save(file, np.asfortranarray(values))
    elif kind == "pkl tensor":
        file.write_bytes(pickle.dumps(tensor))
    elif kind.startswith("pt"):
        torch.save(tensor, file, _use_new_zipfile_serialization=kind == "pt")
    elif kind == "safetensors":
        from safetensors.torch import save_file

        save_file({"x": tensor}, file)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 4000)
        pq.write_table(pa.table({"x": column}), file, row_group_size=1000, compression="none", use_dictionary=False)
    del values, tensor
    np.save(tmp_path / "small.npy", np.ones((100, 4000), np.float16))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "small.npy"), str(tmp_path / "s.zarr"), str(file)],
        env={**os.environ, "PYTHONPATH": ENGINE},
        capture_output=True,
        text=True,
        check=False,
    )
    file.unlink()
    assert done.returncode == 0, done.stderr
    used, bounded = done.stdout.split()
    assert bounded == "True"
    assert int(used) < 170


def test_errors_are_of_the_kind_that_ends_with_code_2() -> None:
    assert issubclass(SourceError, InputError) and issubclass(StoreError, InputError)
