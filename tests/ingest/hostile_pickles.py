"""Pickles that ask for more than an array needs: made by protocol or by opcode, and the line that refuses them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from skillaxes.errors import SourceError
from skillaxes.ingest.pickles.arrays import read


class Asks:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self) -> Any:
        return self.made


def refusal(content: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        read(memoryview(content))
    message = str(caught.value)
    assert message.startswith("refused:") and "\n" not in message
    return message


def opcodes(*parts: bytes) -> bytes:
    return b"".join(parts)


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL
