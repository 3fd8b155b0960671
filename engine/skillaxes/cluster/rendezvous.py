"""How the processes of a job find each other: torch's key-value store, one generation a start, cores, interface.

torchrun's agents keep their store over restarts, so what an earlier start has left there (which process failed, which
has arrived) must not be read again: the keys of each start begin with its generation. The agents' count of restarts
does not tell one start from the next. Each agent counts the failures of its own processes, so that after a failure on
one of two hosts the counts differ, and a start for a new member counts nowhere.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from skillaxes.cluster.launch import Process
from skillaxes.errors import SkillaxesError, UsageError

if TYPE_CHECKING:
    from torch.distributed import Store


RENDEZVOUS = 300  # seconds until every process must have arrived: imports from a shared disk take minutes on many nodes
_STORE_TIMEOUT = 20  # seconds that the store may take to answer
_LONGEST_CONNECT_PAUSE = 0.1  # seconds between two tries to connect to the store
_CONNECTS_PER_SECOND = 200  # of all processes together
_LONGEST_POLL_PAUSE = 0.05  # seconds between two polls for calls
_POLLS_PER_SECOND = 500  # of calls, of all processes together
_SIOCGIFADDR = 0x8915  # Linux: the address of a network interface


def serve(process: Process) -> Any:
    """Start the store in process 0; None in the others, and where another program holds it.

    Raises
    ------
    UsageError : the port is taken
    """
    if process.store_is_external or process.index != 0:
        return None
    try:
        return _tcp_store(process, is_master=True)
    except RuntimeError as error:
        raise UsageError(
            f"process 0 cannot listen at {process.host}:{process.port} ({first_line(error)}): type another "
            "--rendezvous HOST:PORT"
        ) from None


def client(process: Process, prefix: str) -> Store:
    """A new connection to the store; its keys begin with ``prefix``.

    Raises
    ------
    SkillaxesError : no process holds the store
    """
    import torch.distributed as dist

    _await_listener(process)
    try:
        store = _tcp_store(process, is_master=False)
    except RuntimeError as error:
        raise SkillaxesError(
            f"process {process.index} of {process.size} found nobody at {process.host}:{process.port} within "
            f"{RENDEZVOUS} s ({first_line(error)}): is process 0 running there? --rendezvous HOST:PORT names another "
            "place"
        ) from None
    store.set_timeout(timedelta(seconds=_STORE_TIMEOUT))
    return dist.PrefixStore(prefix, store)


def _await_listener(process: Process) -> None:
    """Wait until the store's port accepts a connection, or the time is up.

    torch's own store, once refused, waits up to a second before it tries again, which is a third of a small job.
    """
    end = time.monotonic() + RENDEZVOUS
    while time.monotonic() < end:
        try:
            socket.create_connection((process.host, process.port), timeout=_STORE_TIMEOUT).close()
            return
        except OSError:
            time.sleep(min(_LONGEST_CONNECT_PAUSE, process.size / _CONNECTS_PER_SECOND))


def _tcp_store(process: Process, *, is_master: bool) -> Store:
    import torch.distributed as dist

    timeout = timedelta(seconds=RENDEZVOUS)
    return dist.TCPStore(process.host, process.port, is_master=is_master, wait_for_workers=False, timeout=timeout)


def find_generation(process: Process, prefix: str) -> str:
    """The generation of this start, which earlier starts at the same store did not have.

    Raises
    ------
    SkillaxesError : not all processes have arrived in time
    """
    try:
        return agree_on_generation(client(process, prefix), process.index, process.size, RENDEZVOUS)
    except RuntimeError as error:
        raise SkillaxesError(
            f"process {process.index} of {process.size} waited {RENDEZVOUS} s for the others ({first_line(error)})"
        ) from None


def agree_on_generation(store: Store, rank: int, world_size: int, seconds: float) -> str:
    """A name for this start: process 0 chooses it and sends it to each process that calls under a unique name.

    Parameters
    ----------
    store : the store that all processes use
    rank, world_size : which process of how many this is
    seconds : how long to wait

    Raises
    ------
    RuntimeError : not all processes have arrived in that time
    """
    mine = uuid.uuid4().hex
    if rank > 0:
        store.set(f"call/{rank}", mine)
        store.wait([f"answer/{mine}"], timedelta(seconds=seconds))
        generation = store.get(f"answer/{mine}").decode()
        store.add(f"come/{generation}", 1)
        return generation
    answered: dict[int, bytes] = {}
    end = time.monotonic() + seconds
    while store.add(f"come/{mine}", 0) < world_size - 1:
        if time.monotonic() > end:
            raise RuntimeError(f"{int(store.add(f'come/{mine}', 0)) + 1} of {world_size} processes have come")
        for other in range(1, world_size):
            call = store.compare_set(f"call/{other}", "", "")  # reads the key without waiting for it
            if call and call != answered.get(other):  # the call of a dead process is answered too; no one reads it
                store.set(f"answer/{call.decode()}", mine)
                answered[other] = call
        time.sleep(min(_LONGEST_POLL_PAUSE, world_size / _POLLS_PER_SECOND))
    return mine


def exchange_hosts(store: Store, process: Process, names: list[str]) -> list[dict[str, Any]]:
    """Host, process id and cores (keys ``host``, ``pid``, ``cores``) of every process, by rank.

    Parameters
    ----------
    store : the store of this start
    process : this process
    names : names of the processes in messages, by rank; replaced by names with host and process id

    Raises
    ------
    SkillaxesError : not all processes have arrived in time
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    own = {"host": socket.gethostname(), "pid": os.getpid(), "cores": cores}
    keys = [f"member/{rank}" for rank in range(process.size)]
    try:
        store.set(keys[process.index], json.dumps(own))
        store.wait(keys, timedelta(seconds=RENDEZVOUS))
    except RuntimeError as error:
        missing = [str(rank) for rank, key in enumerate(keys) if not _has(store, key)]
        raise SkillaxesError(
            f"process {process.index} of {process.size} waited {RENDEZVOUS} s for process {', '.join(missing)} "
            f"({first_line(error)}): start all of them with the same --world-size and --rendezvous"
        ) from None
    members = [json.loads(value) for value in store.multi_get(keys)]
    for rank, member in enumerate(members):
        names[rank] = f"process {rank} of {process.size} ({member['host']}, pid {member['pid']})"
    return members


def _has(store: Store, key: str) -> bool:
    try:
        return store.check([key])
    except RuntimeError:
        return False


def set_threads(cores: list[list[int]], own: int) -> int:
    """Divide the host's cores among its processes; returns the number of threads that this process uses.

    A count that the user set in OMP_NUM_THREADS stays. torchrun sets it to 1 where the user has not, which would leave
    cores idle: under torchrun a 1 counts as unset.

    Parameters
    ----------
    cores : the cores that each process on this host may use
    own : the position of this process in ``cores``
    """
    import torch

    given = os.environ.get("OMP_NUM_THREADS")
    if given and not (given == "1" and "TORCHELASTIC_RUN_ID" in os.environ):
        return torch.get_num_threads()
    if not cores[own]:
        return torch.get_num_threads()
    share = sum(1 / sum(core in others for others in cores) for core in cores[own])
    threads = max(1, int(share + 1e-9))
    torch.set_num_threads(threads)
    return threads


def choose_interface(host: str) -> None:
    """Set GLOO_SOCKET_IFNAME, where it is unset, to the network interface that leads to ``host``.

    Gloo would listen at the address that the host's own name resolves to, which is loopback on many machines.
    """
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    import fcntl
    import struct

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            address = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                try:
                    found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                except OSError:
                    continue
                if socket.inet_ntoa(found[20:24]) == address:
                    os.environ["GLOO_SOCKET_IFNAME"] = name
                    return
    except OSError:
        return


def first_line(error: BaseException) -> str:
    """The message of a torch error without the stack that torch appends."""
    return str(error).strip().split("\n", 1)[0][:200]
