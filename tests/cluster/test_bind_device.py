"""Law: processes with a GPU each speak NCCL, whatever number each knows its GPU by; on a shared GPU they do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from skillaxes.cluster.torch_world import TorchWorld
from skillaxes.errors import UsageError


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with NCCL, as far as a world can see; returns the backends of the groups that were made."""
    made: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: made.append(backend))
    return made


class Sent(Exception):
    """A process has said what it has, and hears of no other."""


def bind(monkeypatch: pytest.MonkeyPatch, cards: list[tuple[str, str, str]]) -> None:
    """Let each process bind its device; ``cards`` are its host, its device as it calls it, and the UUID of that."""
    said: list[Any] = []

    def say(mine: Any) -> None:
        said.append(mine)
        raise Sent

    def process(host: str, device: str, uuid: str, gather: Any) -> None:
        world = object.__new__(TorchWorld)
        world.world_size, world.host = len(cards), host
        monkeypatch.setattr(world, "all_gather_object", gather, raising=False)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=uuid))
        world.bind_device(torch.device(device))

    for card in cards:
        with pytest.raises(Sent):
            process(*card, say)
    for card in cards:
        process(*card, lambda mine: said)


@pytest.mark.parametrize(
    ("cards", "nccl"),
    [
        ([("a", "cuda:0", "u0"), ("a", "cuda:1", "u1")], True),
        ([("a", "cuda:0", "u0"), ("a", "cuda:0", "u1")], True),  # one visible GPU a process
        ([("a", "cuda:0", "u0"), ("b", "cuda:0", "u1")], True),
        ([("a", "cuda:0", "u0"), ("a", "cuda:0", "u0")], False),
        ([("a", "cuda:0", "u0"), ("a", "cuda:1", "u0")], False),  # each sees the cards in another order
        ([("a", "cpu", ""), ("a", "cpu", "")], False),
    ],
)
def test_nccl(
    monkeypatch: pytest.MonkeyPatch, groups: list[str], cards: list[tuple[str, str, str]], nccl: bool
) -> None:
    bind(monkeypatch, cards)
    assert groups == ["nccl"] * len(cards) * nccl


def test_different_kinds_of_devices_are_refused(monkeypatch: pytest.MonkeyPatch, groups: list[str]) -> None:
    with pytest.raises(UsageError, match=r"process 0: cuda, process 1: cpu.*--device cpu"):
        bind(monkeypatch, [("a", "cuda:0", "u0"), ("a", "cpu", "")])
    assert not groups
