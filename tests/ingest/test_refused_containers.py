"""Law: what lies within a file of torch or numpy, at whatever place and depth, is refused as a bare pickle is, and so
is a program; nothing of it runs.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_pickles import Asks, opcodes, refusal, stack_global

from skillaxes.errors import SourceError
from skillaxes.ingest import open_source

pytestmark = pytest.mark.usefixtures("marker")


def storage_load(raw: bytes) -> bytes:
    return opcodes(
        b"\x80\x04",
        stack_global("torch.storage", "_load_from_bytes"),
        b"B",
        struct.pack("<I", len(raw)),
        raw,
        b"\x85R.",
    )


def test_within_torchs_nested_load(marker: Path) -> None:
    """``torch.storage._load_from_bytes`` itself would run these."""
    evil = pickle.dumps(Asks(os.system, f"touch {marker}"))
    assert "posix.system" in refusal(storage_load(evil))
    assert "posix.system" in refusal(storage_load(storage_load(evil)))
    zipped = io.BytesIO()
    torch.save({"a": Asks(os.system, f"touch {marker}")}, zipped)
    assert "posix.system" in refusal(storage_load(zipped.getvalue()))
    old = io.BytesIO()
    torch.save(Asks(os.system, f"touch {marker}"), old, _use_new_zipfile_serialization=False)
    assert "posix.system" in refusal(storage_load(old.getvalue()))
    assert "posix.system" in refusal(old.getvalue())
    assert "posix.system" in refusal(zipped.getvalue())
    assert "no storage where a tensor's storage belongs" in refusal(storage_load(pickle.dumps({"a": 1})))


@pytest.mark.parametrize("place", range(5))
def test_within_every_pickle_of_torchs_old_format(place: int, marker: Path) -> None:
    file = io.BytesIO()
    torch.save(torch.ones(2, 2), file, _use_new_zipfile_serialization=False)
    content = file.getvalue()
    ends = []
    stream = io.BytesIO(content)
    for _ in range(5):  # magic, version, system, tensor, keys

        class Skip(pickle.Unpickler):
            def persistent_load(self, _: Any) -> Any:
                return torch.UntypedStorage(16)

            def find_class(self, module: str, name: str) -> Any:
                return lambda *_: None

        Skip(stream).load()
        ends.append(stream.tell())
    start = ([0, *ends])[place]
    evil = pickle.dumps(Asks(os.system, f"touch {marker}"), 2)
    assert "posix.system" in refusal(content[:start] + evil + content[ends[place] :])


def test_other_persistent_objects_of_torch() -> None:
    file = io.BytesIO()
    torch.save(torch.ones(2, 2), file, _use_new_zipfile_serialization=False)
    assert "outside of it" in refusal(file.getvalue().replace(b"X\x07\x00\x00\x00storage", b"X\x07\x00\x00\x00modules"))


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02N.")
        archive.writestr("m/code/__torch__.py", "def f(): pass")
    with pytest.raises(SourceError, match=r"refused: .* a TorchScript program"):
        open_source(path)


@pytest.mark.parametrize("kind", ["numpy", "npz"])
def test_object_arrays_in_numpy_files(tmp_path: Path, kind: str, marker: Path) -> None:
    evil = np.array([[Asks(os.system, f"touch {marker}")]], dtype=object)
    path = tmp_path / f"x.{'npy' if kind == 'numpy' else 'npz'}"
    if kind == "numpy":
        np.save(path, evil, allow_pickle=True)
    else:
        np.savez(path, evil)
    with pytest.raises(SourceError, match=r"Python objects \(dtype object\), not numbers; nothing of it was unpickled"):
        open_source(path)
