"""A name for one start of a group of processes, where the store that they meet at has seen earlier starts.

torchrun's agents keep their store over restarts. Their count of restarts does not tell one start from the next: each
agent counts the failures of its own processes, so after one on one of two hosts the counts differ, and a start for a
new member counts nowhere. What an earlier start has left in the store (who failed, who has come) must not be met again.
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


_LONGEST_LOOK = 0.05  # seconds between two looks for calls
_LOOKS = 500  # at calls a second, of all processes


def agree(store: Store, rank: int, size: int, seconds: float) -> str:
    """The name of this start: process 0's choice, that it tells each process which calls under a name of its own.

    Parameters
    ----------
    store : where all meet
    rank, size : which process of how many this is
    seconds : how long to wait

    Raises
    ------
    RuntimeError : not all have come in that time
    """
    mine = uuid.uuid4().hex
    if rank > 0:
        store.set(f"call/{rank}", mine)
        store.wait([f"answer/{mine}"], timedelta(seconds=seconds))
        name = store.get(f"answer/{mine}").decode()
        store.add(f"come/{name}", 1)
        return name
    answered: dict[int, bytes] = {}
    end = time.monotonic() + seconds
    while store.add(f"come/{mine}", 0) < size - 1:
        if time.monotonic() > end:
            raise RuntimeError(f"{int(store.add(f'come/{mine}', 0)) + 1} of {size} processes have come")
        for other in range(1, size):
            call = store.compare_set(f"call/{other}", "", "")  # what is there, without waiting for it
            if call and call != answered.get(other):  # a dead process's is answered too, to nobody
                store.set(f"answer/{call.decode()}", mine)
                answered[other] = call
        time.sleep(min(_LONGEST_LOOK, size / _LOOKS))
    return mine


RENDEZVOUS = 300  # seconds until every process must have come: imports from a shared disk take minutes on many nodes
_ANSWER = 20  # seconds that the store may take to answer
_LONGEST_PAUSE = 0.1  # seconds between two tries to reach it
_TRIES = 200  # at that a second, of all processes


def serve(process: Process) -> Any:
    """The store, where this process is the one that holds it."""
    if process.served or process.index != 0:
        return None
    try:
        return _store(process, holds=True)
    except RuntimeError as error:
        raise UsageError(
            f"process 0 cannot listen at {process.host}:{process.port} ({first_line(error)}): type another "
            "--rendezvous HOST:PORT"
        ) from None


def client(place: Process, prefix: str) -> Store:
    """A connection of its own to the store; keys begin with ``prefix``.

    Raises
    ------
    SkillaxesError : nobody holds it
    """
    import torch.distributed as dist

    _await_listener(place)
    try:
        made = _store(place, holds=False)
    except RuntimeError as error:
        raise SkillaxesError(
            f"process {place.index} of {place.size} found nobody at {place.host}:{place.port} within {RENDEZVOUS} s "
            f"({first_line(error)}): is process 0 running there? --rendezvous HOST:PORT names another place"
        ) from None
    made.set_timeout(timedelta(seconds=_ANSWER))
    return dist.PrefixStore(prefix, made)


def _await_listener(place: Process) -> None:
    """Come back once somebody listens there, or time is up: torch's own store, turned away once, waits up to a second
    before it tries again, which is a third of a small job.
    """
    end = time.monotonic() + RENDEZVOUS
    while time.monotonic() < end:
        try:
            socket.create_connection((place.host, place.port), timeout=_ANSWER).close()
            return
        except OSError:
            time.sleep(min(_LONGEST_PAUSE, place.size / _TRIES))


def _store(place: Process, *, holds: bool) -> Store:
    import torch.distributed as dist

    waiting = timedelta(seconds=RENDEZVOUS)
    return dist.TCPStore(place.host, place.port, is_master=holds, wait_for_workers=False, timeout=waiting)


def agreed(place: Process, prefix: str) -> str:
    """What tells this start of the group from earlier ones at the same store.

    Raises
    ------
    SkillaxesError : not all have come in time
    """
    try:
        return agree(client(place, prefix), place.index, place.size, RENDEZVOUS)
    except RuntimeError as error:
        raise SkillaxesError(
            f"process {place.index} of {place.size} waited {RENDEZVOUS} s for the others ({first_line(error)})"
        ) from None


def introduce(store: Store, place: Process, names: list[str]) -> list[dict[str, Any]]:
    """Tell the others who this is, and wait until all have; ``names`` then say where each one runs.

    Raises
    ------
    SkillaxesError : not all have come in time
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    about = {"host": socket.gethostname(), "pid": os.getpid(), "cores": cores}
    keys = [f"member/{rank}" for rank in range(place.size)]
    try:
        store.set(keys[place.index], json.dumps(about))
        store.wait(keys, timedelta(seconds=RENDEZVOUS))
    except RuntimeError as error:
        missing = [str(rank) for rank, key in enumerate(keys) if not _has(store, key)]
        raise SkillaxesError(
            f"process {place.index} of {place.size} waited {RENDEZVOUS} s for process {', '.join(missing)} "
            f"({first_line(error)}): start all of them with the same --world-size and --rendezvous"
        ) from None
    members = [json.loads(value) for value in store.multi_get(keys)]
    for rank, member in enumerate(members):
        names[rank] = f"process {rank} of {place.size} ({member['host']}, pid {member['pid']})"
    return members


def _has(store: Store, key: str) -> bool:
    try:
        return store.check([key])
    except RuntimeError:
        return False


def set_threads(cores: list[list[int]], mine: int) -> int:
    """Share the host's cores out, and return how many threads this process takes.

    A count that the user set in OMP_NUM_THREADS stays. torchrun sets it to 1 where the user has not, which would leave
    cores idle: under torchrun a 1 counts as unset.
    """
    import torch

    given = os.environ.get("OMP_NUM_THREADS")
    if given and not (given == "1" and "TORCHELASTIC_RUN_ID" in os.environ):
        return torch.get_num_threads()
    if not cores[mine]:
        return torch.get_num_threads()
    share = sum(1 / sum(core in others for others in cores) for core in cores[mine])
    threads = max(1, int(share + 1e-9))
    torch.set_num_threads(threads)
    return threads


def choose_interface(host: str) -> None:
    """Gloo listens where the host's name leads, which is loopback on many machines: take the way to the others."""
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    import fcntl
    import struct

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect((host, 9))
            address = way.getsockname()[0]
            for _, name in socket.if_nameindex():
                try:
                    found = fcntl.ioctl(way.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
                except OSError:
                    continue
                if socket.inet_ntoa(found[20:24]) == address:
                    os.environ["GLOO_SOCKET_IFNAME"] = name
                    return
    except OSError:
        return


def first_line(error: BaseException) -> str:
    """What an error of torch says, without the stack that it adds."""
    return str(error).strip().split("\n", 1)[0][:200]
