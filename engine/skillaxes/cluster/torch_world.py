"""A world of several processes over torch.distributed: gloo for tensors in host memory, NCCL for tensors on GPUs.

Every collective begins with a barrier that polls the store without a time limit, while the heartbeat watches. The
collective itself is then short and has a time limit. So a process may be hours behind, and none can hang.
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
from skillaxes.cluster.rendezvous import (
    choose_interface,
    client,
    exchange_hosts,
    find_generation,
    first_line,
    serve,
    set_threads,
)
from skillaxes.cluster.world import World
from skillaxes.errors import SkillaxesError, StoppedEarly, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup


T = TypeVar("T")
COLLECTIVE_TIMEOUT = 300  # seconds that a collective may take once all processes have arrived
DEPARTURE_TIMEOUT = 600  # seconds that the process which holds the store waits for the others' last writes
_FIRST_PAUSE = 0.0005  # seconds between the first two polls of the store; grows by half each time
_LONGEST_PAUSE = 0.05
_POLLS_PER_SECOND = 1000  # of all processes together, so that a few processes may poll more often
_n_worlds = 0  # worlds that this interpreter has been part of


def connect(process: Process, wants_stop: Callable[[], object] = lambda: False) -> World:
    """The world of a process, once all processes have arrived.

    Parameters
    ----------
    process : which process of how many this is
    wants_stop : whether this process was told to stop; called by a thread

    Raises
    ------
    SkillaxesError : not all processes have arrived in time
    UsageError : the port is taken
    """
    if process.size == 1:
        return World()
    global _n_worlds
    _n_worlds += 1
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the heartbeat reports a lost store, once
    choose_interface(process.host)
    generation = "" if process.store_is_external else process.generation  # torchrun's counts differ from host to host
    return TorchWorld(process, f"skillaxes/{generation}/{_n_worlds}", lambda: bool(wants_stop()))


class TorchWorld(World):
    """One of several processes.

    Parameters
    ----------
    process : which process of how many this is
    prefix : prefix of every key in the store
    wants_stop : whether this process was told to stop

    Attributes
    ----------
    host : the name of this host
    members : host, process id and cores of every process, by rank
    threads : threads that this process computes with
    """

    def __init__(self, process: Process, prefix: str, wants_stop: Callable[[], bool]) -> None:
        import torch.distributed as dist

        super().__init__(process.index, process.size)
        self._process, self._wants_stop = process, wants_stop
        self._server = serve(process)
        if process.store_is_external:
            prefix = f"{prefix}/{find_generation(process, prefix)}"
        self._store = client(process, prefix)
        store_rank = None if process.store_is_external else 0
        names = [f"process {number} of {process.size}" for number in range(process.size)]
        self._heartbeat = Heartbeat(client(process, prefix), names, self.rank, store_rank, wants_stop)
        self._heartbeat.start()
        self.members = exchange_hosts(self._store, process, names)
        self.host = self.members[self.rank]["host"]
        neighbours = [rank for rank, member in enumerate(self.members) if member["host"] == self.host]
        self.local_world_size = len(neighbours)
        self.local_rank = process.local_rank if process.local_rank is not None else neighbours.index(self.rank)
        self.threads = set_threads([self.members[rank]["cores"] for rank in neighbours], neighbours.index(self.rank))
        self._n_barriers = 0
        self._closed = False
        self._nccl_group: ProcessGroup | None = None
        timeout = timedelta(seconds=COLLECTIVE_TIMEOUT)
        # A Python caller may have a default group already; then ours is one beside it.
        self._owns_default_group = not dist.is_initialized()
        if self._owns_default_group:
            store = client(process, f"{prefix}/gloo")
            dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size, timeout=timeout)
            self._gloo_group = dist.group.WORLD
        else:
            self._gloo_group = dist.new_group(backend="gloo", timeout=timeout)

    @property
    def name(self) -> str:
        return self._heartbeat.names[self.rank]

    @property
    def stopping(self) -> bool:
        return self._wants_stop() or self._heartbeat.stop_seen

    def bind_device(self, device: torch.device) -> None:
        """NCCL where every process has a GPU of its own; tensors on a shared GPU are sent through host memory.

        Raises
        ------
        UsageError : the processes are on devices of different kinds
        """
        import torch
        import torch.distributed as dist

        found = self.all_gather_object((device.type, self.host, _device_id(device)))
        kinds = {kind for kind, *_ in found}
        if len(kinds) > 1:
            listed = ", ".join(f"process {rank}: {kind}" for rank, (kind, *_) in enumerate(found))
            raise UsageError(f"the processes would compute on different kinds of devices ({listed}): type --device cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
            if len(set(found)) == self.world_size and dist.is_nccl_available():
                self._nccl_group = dist.new_group(backend="nccl", timeout=timedelta(seconds=COLLECTIVE_TIMEOUT))

    def barrier_or_stop(self, where: str) -> bool:
        self._n_barriers += 1
        key = f"barrier_or_stop/{self._n_barriers}"

        def decided() -> bool | None:
            if self._store.add(f"{key}/n", 0) >= self.world_size:
                return self._store.compare_set(key, "", "go") == b"go"
            if self.stopping:
                return self._store.compare_set(key, "", "stop") == b"go"
            return None

        self._call(where, lambda: self._store.add(f"{key}/n", 1))
        return self._poll(where, decided)

    def barrier(self, where: str) -> None:
        self._n_barriers += 1
        key = f"barrier/{self._n_barriers}"
        self._call(where, lambda: self._store.add(key, 1))

        def all_arrived() -> bool | None:
            if self._store.add(key, 0) >= self.world_size:
                return True
            if self._heartbeat.departed:
                raise StoppedEarly(f"stopped early before {where}: the same command goes on from here")
            return None

        self._poll(where, all_arrived)

    def barrier_after_stop(self, where: str) -> None:
        # Named, not numbered: the processes that left a read before its end have passed fewer barriers.
        key = f"barrier_after_stop/{where}"
        self._call(where, lambda: self._store.add(key, 1))
        self._poll(where, lambda: self._store.add(key, 0) + len(self._heartbeat.departed) >= self.world_size or None)

    def all_reduce_(self, *tensors: Tensor) -> None:
        import torch.distributed as dist

        self.bytes_sent["sum"] += _nbytes(tensors)
        self._collective("a sum", tensors, lambda tensor, group: dist.all_reduce(tensor, group=group))

    def broadcast_(self, *tensors: Tensor, source: int = 0) -> None:
        self.bytes_sent["broadcast"] += _nbytes(tensors)
        self._broadcast(tensors, source)

    def broadcast_object(self, value: T) -> T:
        import torch

        pickled = _pickled(value) if self.rank == 0 else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([len(pickled)])
        self._broadcast((size,), 0)
        pickled = pickled if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
        self._broadcast((pickled,), 0)
        return value if self.rank == 0 else pickle.loads(pickled.numpy().tobytes())

    def all_gather_object(self, value: T) -> list[T]:
        import torch
        import torch.distributed as dist

        pickled = _pickled(value)
        sizes = torch.zeros(self.world_size, dtype=torch.int64)
        sizes[self.rank] = len(pickled)
        self._collective("a gather", (sizes,), lambda tensor, group: dist.all_reduce(tensor, group=group))
        padded = torch.nn.functional.pad(pickled, (0, int(sizes.max()) - len(pickled)))
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        self._collective("a gather", (padded,), lambda tensor, group: dist.all_gather(parts, tensor, group=group))
        return [pickle.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes.tolist(), strict=True)]

    def on_peer_failure(self, callback: Callable[[int, str], None]) -> None:
        self._heartbeat.on_peer_failure = callback

    def close(self, error: BaseException | None = None) -> BaseException | None:
        if self._closed:
            return error
        self._closed = True
        instead = error
        if error is None or isinstance(error, StoppedEarly):
            self._heartbeat.depart(DEPARTURE_TIMEOUT)
        else:
            code = error.exit_code if isinstance(error, SkillaxesError) else 1
            message = " ".join(str(error).split()) or type(error).__name__
            peer_failure = self._heartbeat.fail(code, message)
            self._heartbeat.stop()
            if peer_failure is not None:
                instead = _PeerFailure(f"{self.name} ends: {peer_failure}", code)
            elif isinstance(error, SkillaxesError):
                error.args = (f"{self.name}: {message}", *error.args[1:])
        self._destroy_group()
        return instead

    def _destroy_group(self) -> None:
        import torch.distributed as dist

        if self._owns_default_group and dist.is_initialized():
            dist.destroy_process_group()

    def _collective(
        self, where: str, tensors: tuple[Tensor, ...], work: Callable[[Tensor, ProcessGroup | None], Any]
    ) -> None:
        """Run ``work`` on each tensor, once all processes have arrived; results are copied back into the tensors."""
        self.barrier(where)
        for tensor in tensors:
            if tensor.numel() == 0:
                continue
            on_gpu = tensor.is_cuda and self._nccl_group is not None
            group = self._nccl_group if on_gpu else self._gloo_group
            contiguous = (tensor if on_gpu else tensor.cpu()).contiguous()
            self._call(where, lambda contiguous=contiguous, group=group: work(contiguous, group))  # type: ignore[misc]
            if contiguous is not tensor:
                tensor.copy_(contiguous)

    def _broadcast(self, tensors: tuple[Tensor, ...], source: int) -> None:
        import torch.distributed as dist

        self._collective("a broadcast", tensors, lambda tensor, group: dist.broadcast(tensor, source, group=group))

    def _poll(self, where: str, look: Callable[[], bool | None]) -> bool:
        """Call ``look`` until it returns something else than None."""
        pause = _FIRST_PAUSE
        while (found := self._call(where, look)) is None:
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE, self.world_size / _POLLS_PER_SECOND)
        return found

    def _call(self, where: str, communicate: Callable[[], T]) -> T:
        """The result of ``communicate``. It fails where another process is gone, which the heartbeat then finds."""
        try:
            return communicate()
        except RuntimeError as error:
            time.sleep(SILENCE + 5)  # the heartbeat ends this process meanwhile
            raise SkillaxesError(f"{where} failed between the processes: {first_line(error)}") from error


class _PeerFailure(SkillaxesError):
    """Another process has failed; the message says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def _device_id(device: torch.device) -> str:
    """Identifier of a device on its host: the UUID of a GPU, since each process numbers the GPUs that it sees."""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else str(device)


def _nbytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _pickled(value: Any) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
