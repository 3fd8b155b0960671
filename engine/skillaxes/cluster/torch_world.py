"""A world of several processes over torch.distributed: gloo for what lies in host memory, NCCL for what lies on GPUs.

Every collective begins with an arrival that polls the store and takes as long as it takes, while the heartbeat watches;
the collective itself is then short and has a time limit. So a process may be hours behind, and none can hang.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from skillaxes.cluster.heartbeat import SILENCE, Heartbeat
from skillaxes.cluster.launch import Process
from skillaxes.cluster.rendezvous import agreed, choose_interface, client, first_line, introduce, serve, set_threads
from skillaxes.cluster.world import World
from skillaxes.errors import SkillaxesError, StoppedEarly, UsageError

if TYPE_CHECKING:
    from torch import Tensor, device
    from torch.distributed import ProcessGroup


T = TypeVar("T")
COLLECTIVE = 300  # seconds that a collective may take once all are there
LEAVING = 600  # seconds that the process which holds the store waits for the others' last writes
_LONGEST_PAUSE = 0.05  # seconds between two looks at the store
_LOOKS = 1000  # at it a second, of all processes: few of them may look more often
_worlds = 0  # how many this interpreter has been part of


def connect(process: Process, wants_stop: Callable[[], object] = lambda: False) -> World:
    """Meet the other processes.

    Parameters
    ----------
    process : which one of how many this is
    wants_stop : whether this process was told to stop; asked by a thread

    Raises
    ------
    SkillaxesError : not all have come in time
    UsageError : the place to meet is taken
    """
    if process.size == 1:
        return World()
    global _worlds
    _worlds += 1
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a store that goes away is told of by us, once
    choose_interface(process.host)
    attempt = "" if process.served else process.attempt  # torchrun's counts differ from host to host
    return TorchWorld(process, f"skillaxes/{attempt}/{_worlds}", lambda: bool(wants_stop()))


class TorchWorld(World):
    """One of several processes.

    Parameters
    ----------
    process : which one
    prefix : before every key in the store
    wants_stop : whether this process was told to stop
    """

    def __init__(self, process: Process, prefix: str, wants_stop: Callable[[], bool]) -> None:
        import torch.distributed as dist

        super().__init__(process.index, process.size)
        self._process, self._wants_stop = process, wants_stop
        self._server = serve(process)
        if process.served:
            prefix = f"{prefix}/{agreed(process, prefix)}"
        self._store = client(process, prefix)
        host = None if process.served else 0
        names = [f"process {number} of {process.size}" for number in range(process.size)]
        self._heart = Heartbeat(client(process, prefix), names, self.rank, host, wants_stop)
        self._heart.start()
        self.members = introduce(self._store, process, names)
        self.host = self.members[self.rank]["host"]
        neighbours = [rank for rank, member in enumerate(self.members) if member["host"] == self.host]
        self.here = len(neighbours)
        self.local_index = process.local_index if process.local_index is not None else neighbours.index(self.rank)
        self.threads = set_threads([self.members[rank]["cores"] for rank in neighbours], neighbours.index(self.rank))
        self._count = 0
        self._left = False
        self._on_device: ProcessGroup | None = None
        limit = timedelta(seconds=COLLECTIVE)
        # A group of our own: whoever calls from Python may have one already.
        self._own_default = not dist.is_initialized()
        if self._own_default:
            dist.init_process_group(
                "gloo", store=client(process, f"{prefix}/gloo"), rank=self.rank, world_size=self.size, timeout=limit
            )
            self._group = dist.group.WORLD
        else:
            self._group = dist.new_group(backend="gloo", timeout=limit)

    @property
    def name(self) -> str:
        return self._heart.names[self.rank]

    @property
    def stopping(self) -> bool:
        return self._wants_stop() or self._heart.stop_seen

    def use(self, where: device) -> None:
        """NCCL where every process has a GPU of its own; what lies on a shared GPU travels through the host."""
        import torch
        import torch.distributed as dist

        found = self.gather((where.type, self.host, str(where)))
        kinds = {kind for kind, *_ in found}
        if len(kinds) > 1:
            told = ", ".join(f"process {rank}: {kind}" for rank, (kind, *_) in enumerate(found))
            raise UsageError(f"the processes would compute on different kinds of devices ({told}): type --device cpu")
        if where.type == "cuda":
            torch.cuda.set_device(where)
            if len(set(found)) == self.size and dist.is_nccl_available():
                self._on_device = dist.new_group(backend="nccl", timeout=timedelta(seconds=COLLECTIVE))

    def meet(self, where: str) -> bool:
        self._count += 1
        key = f"meet/{self._count}"

        def decided() -> bool | None:
            if self._store.add(f"{key}/n", 0) >= self.size:
                return self._store.compare_set(key, "", "go") == b"go"
            if self.stopping:
                return self._store.compare_set(key, "", "stop") == b"go"
            return None

        self._asked(where, lambda: self._store.add(f"{key}/n", 1))
        return self._poll(where, decided)

    def together(self, where: str) -> None:
        self._count += 1
        key = f"at/{self._count}"
        self._asked(where, lambda: self._store.add(key, 1))

        def all_there() -> bool | None:
            if self._store.add(key, 0) >= self.size:
                return True
            if self._heart.gone:
                raise StoppedEarly(f"stopped early before {where}: the same command goes on from here")
            return None

        self._poll(where, all_there)

    def settle(self, where: str) -> None:
        # Not a numbered meeting: some have left the read before its end, others wait there.
        key = f"settled/{where}"
        self._asked(where, lambda: self._store.add(key, 1))
        self._poll(where, lambda: self._store.add(key, 0) + len(self._heart.gone) >= self.size or None)

    def sum_(self, *tensors: Tensor) -> None:
        import torch.distributed as dist

        self.handed_over["sum"] += _size(tensors)
        self._each("a sum", tensors, lambda tensor, group: dist.all_reduce(tensor, group=group))

    def broadcast_(self, *tensors: Tensor, source: int = 0) -> None:
        self.handed_over["broadcast"] += _size(tensors)
        self._send(tensors, source)

    def share(self, value: T) -> T:
        import torch

        packed = _packed(value) if self.rank == 0 else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([len(packed)])
        self._send((size,), 0)
        packed = packed if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
        self._send((packed,), 0)
        return value if self.rank == 0 else pickle.loads(packed.numpy().tobytes())

    def gather(self, value: T) -> list[T]:
        import torch
        import torch.distributed as dist

        packed = _packed(value)
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(packed)
        self._each("a gather", (sizes,), lambda tensor, group: dist.all_reduce(tensor, group=group))
        padded = torch.nn.functional.pad(packed, (0, int(sizes.max()) - len(packed)))
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        self._each("a gather", (padded,), lambda tensor, group: dist.all_gather(parts, tensor, group=group))
        return [pickle.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes.tolist(), strict=True)]

    def when_lost(self, act: Callable[[int, str], None]) -> None:
        self._heart.when_lost = act

    def leave(self, error: BaseException | None = None) -> BaseException | None:
        if self._left:
            return error
        self._left = True
        instead = error
        if error is None or isinstance(error, StoppedEarly):
            self._heart.leave(LEAVING)
        else:
            code = error.exit_code if isinstance(error, SkillaxesError) else 1
            text = " ".join(str(error).split()) or type(error).__name__
            other = self._heart.fail(code, text)
            self._heart.quiet()
            if other is not None:
                instead = _Followed(f"{self.name} ends: {other}", code)
            elif isinstance(error, SkillaxesError):
                error.args = (f"{self.name}: {text}", *error.args[1:])
        self._disband()
        return instead

    def _disband(self) -> None:
        import torch.distributed as dist

        if self._own_default and dist.is_initialized():
            dist.destroy_process_group()

    def _each(
        self, where: str, tensors: tuple[Tensor, ...], work: Callable[[Tensor, ProcessGroup | None], Any]
    ) -> None:
        """Do one collective a tensor, once all are there."""
        self.together(where)
        for tensor in tensors:
            if tensor.numel() == 0:
                continue
            if tensor.is_cuda and self._on_device is not None:
                straight = tensor.contiguous()
                self._asked(where, lambda straight=straight: work(straight, self._on_device))  # type: ignore[misc]
            else:
                straight = tensor.cpu().contiguous()
                self._asked(where, lambda straight=straight: work(straight, self._group))  # type: ignore[misc]
            if straight is not tensor:
                tensor.copy_(straight)

    def _send(self, tensors: tuple[Tensor, ...], source: int) -> None:
        import torch.distributed as dist

        self._each("a broadcast", tensors, lambda tensor, group: dist.broadcast(tensor, source, group=group))

    def _poll(self, where: str, look: Callable[[], bool | None]) -> bool:
        pause = 0.0005
        while (found := self._asked(where, look)) is None:
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE, self.size / _LOOKS)
        return found

    def _asked(self, where: str, ask: Callable[[], T]) -> T:
        """What ``ask`` says. Where it fails another process is gone: the heartbeat knows which, soon."""
        try:
            return ask()
        except RuntimeError as error:
            time.sleep(SILENCE + 5)  # the heartbeat ends this process meanwhile
            raise SkillaxesError(f"{where} failed between the processes: {first_line(error)}") from error


class _Followed(SkillaxesError):
    """Another process has failed and says why."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


def _size(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _packed(value: Any) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
