"""Which process of a job this is, by flags, torchrun's environment or a Slurm step, and which rows it takes.

Functions of their arguments: they start nothing, do not use the network and do not load torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillaxes.errors import UsageError

if TYPE_CHECKING:
    from skillaxes.store import Store

DEFAULT_PORT = 29400
_SLURM_PORTS = range(15000, 30000)  # below the range that Linux hands out to outgoing connections
_FIRST_SPECIAL_STEP = 4294967290  # from here on: interactive shell, batch script and so on, no step of a user's
FLAGS, TORCHRUN, SLURM, ALONE = "flags", "torchrun", "slurm step", "alone"
_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Process:
    """One process of a job.

    Attributes
    ----------
    index, size : which process of how many
    source : where index and size come from: ``flags``, ``torchrun``, ``slurm step`` or ``alone``
    host, port : address of the store; process 0 listens there unless ``store_is_external``
    store_is_external : whether another program holds the store, as torchrun's agent does
    local_rank : which process of those on its host; None if unknown
    generation : distinguishes one start of the group from the next one at the same address; processes of a torchrun on
        several hosts may have different ones (see :mod:`skillaxes.cluster.rendezvous`)
    remark : one line for the user, or None
    """

    index: int = 0
    size: int = 1
    source: str = ALONE
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    store_is_external: bool = False
    local_rank: int | None = None
    generation: str = ""
    remark: str | None = None


def detect_launcher(
    environ: Mapping[str, str],
    *,
    index: int | None = None,
    size: int | None = None,
    rendezvous: str | None = None,
    terminal: bool = False,
) -> Process:
    """This process and the size of its group, from flags or from what a launcher has set in the environment.

    Parameters
    ----------
    environ : the environment
    index, size, rendezvous : ``--process-index``, ``--world-size`` and ``--rendezvous HOST:PORT``, where given
    terminal : whether stdin is a terminal; the tasks of a step have none, a shell started by ``srun --pty`` has one

    Raises
    ------
    UsageError : one flag without the other, an index out of range, variables that are not numbers
    """
    address = None if rendezvous is None else _parse_address(rendezvous)
    if index is not None or size is not None:
        return _from_flags(environ, index, size, address)
    in_group = all(name in environ for name in _TORCHRUN_VARIABLES) or "SLURM_STEP_NUM_TASKS" in environ
    if address is not None and not in_group:
        raise UsageError("--rendezvous: needs --process-index and --world-size too")
    if all(environ.get(name) for name in _TORCHRUN_VARIABLES):
        return _from_torchrun(environ)
    if "SLURM_JOB_ID" in environ or "SLURM_STEP_NUM_TASKS" in environ:
        return _from_slurm(environ, address, terminal)
    return Process()


def _from_flags(
    environ: Mapping[str, str], index: int | None, size: int | None, address: tuple[str, int] | None
) -> Process:
    if index is None or size is None:
        missing = "--process-index" if index is None else "--world-size"
        raise UsageError(f"{missing} is missing: --process-index and --world-size belong together, one pair a process")
    if size < 1 or not 0 <= index < size:
        raise UsageError(f"--process-index {index} --world-size {size}: processes are numbered from 0 to {size - 1}")
    if address is None:
        port = _number(environ, "MASTER_PORT") if environ.get("MASTER_PORT") else DEFAULT_PORT
        address = (environ.get("MASTER_ADDR") or "127.0.0.1", port)
    return Process(index, size, FLAGS, *address)


def _from_torchrun(environ: Mapping[str, str]) -> Process:
    index, size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    if not 0 <= index < size:
        raise UsageError(f"RANK={index} WORLD_SIZE={size}: processes are numbered from 0 to {size - 1}")
    return Process(
        index,
        size,
        TORCHRUN,
        environ["MASTER_ADDR"],
        _number(environ, "MASTER_PORT"),
        store_is_external=environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() in ("true", "1"),
        local_rank=_number(environ, "LOCAL_RANK") if environ.get("LOCAL_RANK") else None,
        generation=f"{environ.get('TORCHELASTIC_RUN_ID', '')}.{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}",
    )


def _from_slurm(environ: Mapping[str, str], address: tuple[str, int] | None, terminal: bool) -> Process:
    job = environ.get("SLURM_JOB_ID", environ.get("SLURM_JOBID", "0"))
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", "0"))
    # A batch script has SLURM_PROCID too, and a shell inside an allocation may have inherited a step's variables.
    special = step.isdigit() and int(step) >= _FIRST_SPECIAL_STEP
    foreign = "SLURM_STEP_NUM_TASKS" not in environ or "SLURM_PROCID" not in environ or _is_inherited(environ)
    if terminal or special or foreign:
        what = "a shell" if terminal else "the batch script"
        return Process(
            remark=f"{what} inside Slurm job {job} is no step: one process; `srun skillaxes ...` starts one a task"
        )
    index, size = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_STEP_NUM_TASKS")
    local_rank = _number(environ, "SLURM_LOCALID") if environ.get("SLURM_LOCALID") else None
    if not 0 <= index < size:
        raise UsageError(f"SLURM_PROCID={index} SLURM_STEP_NUM_TASKS={size}: start skillaxes with srun")
    if size == 1:
        return Process(source=SLURM, local_rank=local_rank)
    if address is None:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
        hosts = expand_hosts(nodes)
        if not hosts:
            raise UsageError("SLURM_STEP_NODELIST is not set: type --rendezvous HOST:PORT")
        one_node = environ.get("SLURM_STEP_NUM_NODES", str(len(hosts))) == "1"
        address = ("127.0.0.1" if one_node else hosts[0], slurm_port(job, step))
    # A requeued job counts its steps from 0 again.
    generation = f"{job}.{step}.{environ.get('SLURM_RESTART_COUNT', '0')}"
    return Process(index, size, SLURM, *address, local_rank=local_rank, generation=generation)


def _is_inherited(environ: Mapping[str, str]) -> bool:
    """Whether the variables are those of another step.

    A batch job that is submitted from inside a step inherits the step's variables, except SLURM_GTIDS, the global
    numbers of the tasks on this node: it has one of its own, a single 0.
    """
    per_node = [
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
        for _ in range(int(times or 1))
    ]
    node, here = environ.get("SLURM_NODEID", ""), environ.get("SLURM_GTIDS", "")
    if not here or not node.isdigit() or int(node) >= len(per_node):
        return False
    return len(here.split(",")) != per_node[int(node)]


def slurm_port(job: str, step: str) -> int:
    """The port of a step: the same for all its processes, another one for neighbouring jobs and steps."""
    numbers = [int(text) if text.isdigit() else 0 for text in (job, step)]
    return _SLURM_PORTS[(numbers[0] * 31 + numbers[1]) % len(_SLURM_PORTS)]


def expand_hosts(nodes: str) -> list[str]:
    """The hosts of a Slurm node list: ``"gpu[01-03,7],login"`` is gpu01, gpu02, gpu03, gpu7, login.

    Raises
    ------
    UsageError : not a node list
    """
    hosts: list[str] = []
    for word in _split_node_list(nodes):
        hosts += _expand_brackets(word)
    return hosts


def _split_node_list(nodes: str) -> list[str]:
    """The words between commas outside brackets."""
    words, depth, word = [], 0, ""
    for sign in nodes:
        depth += (sign == "[") - (sign == "]")
        if sign == "," and depth == 0:
            words.append(word)
            word = ""
        else:
            word += sign
    if depth:
        raise UsageError(f"{nodes!r} is not a node list: a bracket is missing")
    return [text.strip() for text in [*words, word] if text.strip()]


def _expand_brackets(word: str) -> list[str]:
    """The hosts of one word of a node list, which may have several brackets."""
    opening = word.find("[")
    if opening < 0:
        return [word]
    closing = word.index("]", opening)
    names = []
    for part in word[opening + 1 : closing].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise UsageError(f"{word!r} is not a node list: [{part}] is no number and no range")
        first, last = match[1], match[2] or match[1]
        names += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [word[:opening] + name + rest for name in names for rest in _expand_brackets(word[closing + 1 :])]


def _parse_address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UsageError(f"--rendezvous {text}: needs HOST:PORT, for example node01:{DEFAULT_PORT}")
    return host.strip("[]"), int(port)


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isdigit():
        raise UsageError(f"{name}={text!r} is not a number: unset it, or give --process-index and --world-size")
    return int(text)


def own_rows(store: Store, rank: int, world_size: int) -> tuple[int, int]:
    """The rows (start, stop) of process ``rank`` of ``world_size``.

    Raises
    ------
    UsageError : more processes than chunks
    """
    return parts(store.n_rows, store.chunk_rows, world_size)[rank]


def parts(n_rows: int, chunk_rows: int, world_size: int) -> list[tuple[int, int]]:
    """The rows (start, stop) of every process, by rank.

    They are cut at the chunk nearest to an even share; every process gets at least one chunk.

    Raises
    ------
    UsageError : more processes than chunks
    """
    n_chunks = -(-n_rows // chunk_rows)
    if world_size > n_chunks:
        raise UsageError(
            f"{world_size} processes for a store of {n_chunks} chunks: each takes at least one; start {n_chunks} or "
            "fewer, or ingest the store again with smaller chunks"
        )
    cuts = [0]
    for number in range(1, world_size):
        even = round(number * n_rows / world_size / chunk_rows)
        cuts.append(min(max(even, cuts[-1] + 1), n_chunks - (world_size - number)))
    cuts.append(n_chunks)
    return [(cuts[i] * chunk_rows, min(cuts[i + 1] * chunk_rows, n_rows)) for i in range(world_size)]


def clip_segments(segments: Sequence[tuple[int, int]], rows: tuple[int, int]) -> list[tuple[int, int]]:
    """The parts of (start, stop) segments that lie within ``rows``, which is (start, stop) too."""
    clipped = [(max(start, rows[0]), min(stop, rows[1])) for start, stop in segments]
    return [(start, stop) for start, stop in clipped if start < stop]
