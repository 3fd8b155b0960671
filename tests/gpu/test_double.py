"""The law: the double of a card is a device of its own, as strict as a card, and what it is asked is counted.

Without this, a job that passes on the double would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cuda_double import Counts, cuda_double
from torch import Tensor

pytestmark = pytest.mark.cuda_double


@pytest.fixture
def counts(guard_folder: Path) -> Iterator[Counts]:
    with cuda_double(guard_folder) as counts:
        yield counts


def on_card(*shape: int) -> Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape).to("cuda")


def test_a_tensor_says_where_it_is(counts: Counts) -> None:
    made = [torch.zeros(3, device="cuda"), on_card(2, 3), on_card(2, 3)[0], on_card(2, 3).T + 1]
    assert all(tensor.is_cuda and tensor.device == torch.device("cuda", 0) for tensor in made)
    assert torch.empty_like(made[0]).is_cuda and made[0].new_zeros(4).is_cuda
    assert not made[0].cpu().is_cuda and not torch.zeros(3).is_cuda


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a sum": lambda card, host: card + host,
    "a sum in place on the host": lambda card, host: host.add_(card),
    "a product": lambda card, host: card @ host.T,
    "a product into the host's memory": lambda card, host: torch.mm(card, card.T, out=torch.empty((4, 4))),
    "one behind the other": lambda card, host: torch.cat([card, host]),
    "a mask of the host": lambda card, host: torch.where(host > 0, card, 0.0),
    "a mask of the host in place": lambda card, host: card.masked_fill_(host > 0, 0),
    "indices of the card into the host": lambda card, host: host[on_card(1).long()],
    "values of the host put into the card": lambda card, host: card.index_put_((torch.tensor([0, 1]),), host[:2]),
    "a number of the card": lambda card, host: host + on_card(1).sum(),
}


@pytest.mark.parametrize("mixed", MIXED)
def test_mixing_devices_is_an_error(counts: Counts, mixed: str) -> None:
    with pytest.raises(RuntimeError, match=r"on cuda:0|on the same device"):
        MIXED[mixed](on_card(4, 3), torch.ones((4, 3)))


def test_numpy_cannot_read_the_card(counts: Counts) -> None:
    for read in (lambda tensor: tensor.numpy(), np.asarray):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            read(on_card(3))


def test_what_a_card_allows(counts: Counts) -> None:
    """Numbers of the host, indices of the host, copies either way."""
    card, host = on_card(4, 3), torch.ones((4, 3))
    assert float((card + torch.tensor(2.0)).sum()) == 66 + 24
    assert card[torch.tensor([0, 2])].tolist() == [[0, 1, 2], [6, 7, 8]]
    card[1].copy_(host[1])
    host.copy_(card)
    card[torch.tensor([0])] = 5.0
    assert host.tolist() == [[0, 1, 2], [1, 1, 1], [6, 7, 8], [9, 10, 11]]
    assert card[:2].tolist() == [[5, 5, 5], [1, 1, 1]]


def test_views_write_through(counts: Counts) -> None:
    card = torch.zeros((4, 3), device="cuda")
    same = card[1:].mul_(2).add_(1)
    card[:, 0].fill_(7)
    assert card.tolist() == [[7, 0, 0]] + [[7, 1, 1]] * 3 and same.tolist() == [[7, 1, 1]] * 3
    out = torch.empty((4, 3), device="cuda")
    assert torch.add(card, card, out=out) is out and out[0].tolist() == [14, 0, 0]


def test_launches_are_counted_and_views_are_none(counts: Counts) -> None:
    card = torch.zeros((4, 3), device="cuda")
    counts.clear()
    card[1:].T.unsqueeze(0).expand(2, -1, -1)
    torch.empty_like(card)
    torch.zeros(3) + 1
    assert not counts.launches and not counts.waits
    card.add_(1)
    card @ card.T
    card.T.contiguous()
    assert counts.launches == {"add_": 1, "mm": 1, "clone": 1} and not counts.waits


WAITS: dict[str, Callable[[Tensor], object]] = {
    "a number": lambda card: float(card.sum()),
    "a truth": lambda card: bool((card > 0).any()),
    "places": lambda card: card.nonzero(),
    "a mask": lambda card: card[card > 0],
    "a copy": lambda card: card.cpu(),
    "a copy into the host's memory": lambda card: torch.zeros((3, 3)).copy_(card),
    "a comparison": lambda card: torch.equal(card, card),
    "an eigenproblem": torch.linalg.eigh,
    "a list": lambda card: card.tolist(),
}


@pytest.mark.parametrize("waits", WAITS)
def test_what_the_host_waits_for_is_counted(counts: Counts, waits: str) -> None:
    card = on_card(3, 3)
    counts.clear()
    WAITS[waits](card)
    assert counts.waits.total() == 1


def test_copies_are_counted_with_their_bytes(counts: Counts) -> None:
    card = on_card(4, 3)
    assert (counts.copies_to_card, counts.bytes_to_card, counts.copies_to_host) == (1, 48, 0)
    card[:2].to("cpu", non_blocking=True)
    torch.empty((1, 3)).copy_(card[3:], non_blocking=True)
    card.double()
    assert (counts.copies_to_host, counts.bytes_to_host) == (2, 36) and not counts.waits
    card[:, 1].copy_(torch.zeros(4))
    assert (counts.copies_to_card, counts.bytes_to_card) == (2, 64)


def test_nothing_stays_behind(guard_folder: Path) -> None:
    with cuda_double(guard_folder):
        torch.zeros(3, device="cuda")
    assert not torch.cuda.is_available()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(3, device="cuda")
