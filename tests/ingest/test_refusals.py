"""Law: a pickle that asks for more than an array needs is refused by name, and nothing of it runs."""

from __future__ import annotations

import codecs
import copyreg
import functools
import importlib
import operator
import os
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_pickles import Asks, opcodes, refusal, stack_global, text

from skillaxes.errors import SourceError
from skillaxes.ingest import ingest
from skillaxes.ingest.pickles.arrays import read

pytestmark = pytest.mark.usefixtures("marker")

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

CALLS: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("builtins.eval", eval, ("open({0!r}, 'w')",)),
    ("builtins.exec", exec, ("open({0!r}, 'w')",)),
    ("io.open", open, ("{0}", "w")),
    ("builtins.getattr", getattr, (os, "system")),
    ("builtins.__import__", __import__, ("os",)),
    ("builtins.compile", compile, ("1", "a", "eval")),
    ("posix.system", os.system, ("touch {0}",)),
    ("os._Environ", type(os.environ), ()),
    ("subprocess.Popen", subprocess.Popen, (["touch", "{0}"],)),
    ("importlib.import_module", importlib.import_module, ("antigravity",)),
    ("operator.attrgetter", operator.attrgetter, ("system",)),
    ("functools.partial", functools.partial, (os.system, "touch {0}")),
    ("_pickle.loads", pickle.loads, (b"cos\nsystem\n(S'touch {0}'\ntR.",)),
    ("_codecs.decode", codecs.decode, (b"x\x9c\x03\x00\x00\x00\x00\x01", "zip")),
    ("copyreg._reconstructor", copyreg._reconstructor, (object, object, None)),  # type: ignore[attr-defined]
    ("numpy.load", np.load, ("{0}", None, True)),
    ("numpy.fromfile", np.fromfile, ("/etc/passwd",)),
    ("numpy.memmap", np.memmap, ("{0}", "f4", "w+", 0, (3,))),
    ("torch.serialization.load", torch.load, ("{0}",)),
    ("torch.hub.load", torch.hub.load, ("a/b", "c")),
    ("torch.jit._serialization.load", torch.jit.load, ("{0}",)),
    ("torch._utils._rebuild_wrapper_subclass", torch._utils._rebuild_wrapper_subclass, ()),
]


def filled(value: Any, marker: Path) -> Any:
    if isinstance(value, str):
        return value.replace("{0}", str(marker)).replace("{0!r}", repr(str(marker)))
    if isinstance(value, bytes):
        return value.replace(b"{0}", str(marker).encode())
    if isinstance(value, list):
        return [filled(item, marker) for item in value]
    return value


@pytest.mark.parametrize(("name", "function", "arguments"), CALLS, ids=[call[0] for call in CALLS])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_calls_are_refused_by_name(
    name: str, function: Callable[..., Any], arguments: tuple[Any, ...], protocol: int, marker: Path
) -> None:
    arguments = tuple(filled(argument, marker) for argument in arguments if argument is not os)
    content = pickle.dumps(Asks(function, *arguments), protocol)
    named = name.rpartition(".")[2]
    assert f".{named}, which no array needs" in refusal(content)
    if protocol > 2:  # older ones go by Python 2's names, which are several to one
        assert f"asks for {name}," in refusal(content)


def test_the_message_is_the_same_from_the_front_door(tmp_path: Path, marker: Path) -> None:
    for suffix in (".pkl", ".pickle", ".pt", ".pth"):
        source = tmp_path / f"gradmat{suffix}"
        source.write_bytes(pickle.dumps(Asks(eval, f"open({str(marker)!r}, 'w')")))
        with pytest.raises(SourceError) as caught:
            ingest(source, tmp_path / "s.zarr")
        assert f"{source}: refused: the pickle asks for builtins.eval" in str(caught.value)
        assert caught.value.exit_code == 2
    assert not any(path.name.startswith("s.zarr") for path in tmp_path.iterdir())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_beside_an_array(protocol: int, marker: Path) -> None:
    evil = Asks(os.system, f"touch {marker}")
    good = np.ones((3, 4))
    for content in ([good, evil], {"x": good, "y": evil}, (evil, good), {"deep": [{"er": [evil]}]}):
        assert "posix.system" in refusal(pickle.dumps(content, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_within_an_object_array(protocol: int, marker: Path) -> None:
    values = np.array([[Asks(os.system, f"touch {marker}")]], dtype=object)
    assert "posix.system" in refusal(pickle.dumps(values, protocol))
    harmless = np.array([["text", 1]], dtype=object)
    with pytest.raises(SourceError, match="Python objects"):
        read(memoryview(pickle.dumps(harmless, protocol)))


DOTTED = [
    ("os", "system"),
    ("numpy", "core.multiarray._reconstruct"),
    ("numpy", "ndarray.tofile"),
    ("numpy", "dtype.__class__"),
    ("collections", "OrderedDict.fromkeys"),
    ("collections", "abc.sys.modules"),
    ("torch.storage", "_load_from_bytes.__globals__"),
    ("torch.storage", "torch.serialization.load"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("_codecs", "encode.__self__"),
    ("numpy.core.multiarray", "os.system"),
    ("", ""),
    ("torch", "Storage\x00"),
    ("NUMPY", "ndarray"),
]


@pytest.mark.parametrize(("module", "name"), DOTTED)
def test_names_that_look_like_admitted_ones(module: str, name: str) -> None:
    called = opcodes(b"\x80\x04", stack_global(module, name), b"(tR.")
    assert "refused: the pickle asks for" in refusal(called)
    if "\x00" not in name:
        assert f"{module}.{name}" in refusal(called)
        assert f"{module}.{name}" in refusal(opcodes(b"c", module.encode(), b"\n", name.encode(), b"\n(tR."))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"(S'touch x'\nios\nsystem\n.", "os.system"),  # INST
        (b"(cos\nsystem\nS'touch x'\no.", "os.system"),  # OBJ
        (b"\x80\x02cos\nsystem\nU\x05touch\x85\x81.", "os.system"),  # NEWOBJ
        (b"(inumpy\nndarray\n.", "makes an object of numpy.ndarray"),
        (b"(cnumpy\nndarray\no.", "makes an object of numpy.ndarray"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "makes an object of numpy.ndarray"),
        (b"\x80\x04cnumpy\nndarray\n)}\x92.", "makes an object of numpy.ndarray"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "calls numpy.ndarray"),
        (b"\x80\x02\x82\x01.", "extension code"),
        (b"\x80\x02\x83\x01\x00.", "extension code"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "extension code"),
        (b"Pid\n.", "persistent id"),
        (b"\x80\x02NQ.", "persistent id"),
        (b"\x80\x05\x97.", "out-of-band"),
        (b"\x80\x05N\x98.", "out-of-band"),
        (b"\x80\x04\x8f.", "a set"),
        (b"\x80\x04(\x91.", "a set"),
        (b"\x80\x02}}b.", "sets the state of something that is no array"),
        (b"\x80\x02cnumpy\nndarray\n}b.", "sets the state of something that is no array"),
        (b"\x80\x02]NNb.", "sets the state"),
        (b"\x80\x02K\x01)R.", "calls something that is no function"),
        (b"\x80\x02X\x04\x00\x00\x00eval)R.", "calls something that is no function"),
        (b"\x80\x02cnumpy\nndarray\nK\x01a.", "no list or dict"),
        (b"\x80\x02}(K\x01\x85K\x02u.", "keys are neither texts nor numbers"),
        (b"\xff.", "uses opcode"),
    ],
)
def test_other_ways_to_make_objects(content: bytes, what: str) -> None:
    assert what in refusal(content)


def test_a_name_that_is_refused_is_not_imported() -> None:
    for content in (
        b"cantigravity\nfly\n.",
        b"(iantigravity\nfly\n.",
        opcodes(b"\x80\x04", stack_global("antigravity", "fly"), b"."),
    ):
        assert "asks for antigravity.fly" in refusal(content)
    assert "antigravity" not in sys.modules


def test_every_other_opcode_is_refused() -> None:
    """Whatever Python's own unpickler learns, this one does not."""
    known = {ord(opcode.code) for opcode in pickletools.opcodes if opcode.proto <= pickle.HIGHEST_PROTOCOL}
    for code in set(range(256)) - known:
        assert f"uses opcode {bytes([code])!r}, which no array needs" in refusal(b"\x80\x02" + bytes([code]) + b".")


@pytest.mark.parametrize("kind", ["matrix", "memmap", "recarray"])
def test_other_classes_rebuilt_as_arrays(kind: str) -> None:
    content = opcodes(
        b"\x80\x04",
        stack_global("numpy.core.multiarray", "_reconstruct"),
        stack_global("numpy", kind),
        b"K\x00\x85C\x01b\x87R.",
    )
    assert f"numpy.{kind}" in refusal(content)
    swapped = opcodes(
        b"\x80\x04",
        stack_global("numpy.core.multiarray", "_reconstruct"),
        stack_global("numpy", "dtype"),
        b"K\x00\x85C\x01b\x87R.",
    )
    assert "rebuilds numpy.dtype as if it were an array" in refusal(swapped)


@pytest.mark.parametrize("codec", ["zip_codec", "rot13", "hex", "utf-8", "unicode_escape"])
def test_other_codecs(codec: str) -> None:
    content = opcodes(b"\x80\x04", stack_global("_codecs", "encode"), text("x"), text(codec), b"\x86R.")
    assert f"asks for the codec {codec}" in refusal(content)
