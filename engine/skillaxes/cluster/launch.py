"""Which process of how many this is: from flags, torchrun's environment or a Slurm step; else alone.

A function of its arguments: nothing is started, nothing is asked of the network, torch is not loaded.
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
_LEAST_SPECIAL_STEP = 4294967290  # interactive shell, batch script and so on: no step of a user's
FLAGS, TORCHRUN, SLURM, ALONE = "flags", "torchrun", "slurm step", "alone"
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Process:
    """One process of a job.

    Attributes
    ----------
    index, size : which one of how many
    source : who said so: ``flags``, ``torchrun``, ``slurm step`` or ``alone``
    host, port : where the processes meet; process 0 listens there unless ``served``
    served : somebody else listens there already, as torchrun's agent does
    local_index : which one on its host; None where nobody said
    attempt : what tells one start of the group from the next one at the same place; under a torchrun of several hosts
        their processes may have different ones (see :mod:`skillaxes.cluster.rendezvous`)
    remark : one line that the user should see, or None
    """

    index: int = 0
    size: int = 1
    source: str = ALONE
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    served: bool = False
    local_index: int | None = None
    attempt: str = ""
    remark: str | None = None


def find_process(
    environ: Mapping[str, str],
    *,
    index: int | None = None,
    size: int | None = None,
    rendezvous: str | None = None,
    terminal: bool = False,
) -> Process:
    """This process and its world.

    Parameters
    ----------
    environ : the environment
    index, size, rendezvous : ``--process-index``, ``--world-size`` and ``--rendezvous HOST:PORT`` where they were given
    terminal : whether stdin is a terminal: the tasks of a step have none, a shell started by ``srun --pty`` has one

    Raises
    ------
    UsageError : one flag without the other, an index out of range, variables that are no numbers
    """
    given = None if rendezvous is None else _place(rendezvous)
    if index is not None or size is not None:
        return _by_flags(environ, index, size, given)
    if given is not None and not (all(name in environ for name in _TORCHRUN) or "SLURM_STEP_NUM_TASKS" in environ):
        raise UsageError("--rendezvous: needs --process-index and --world-size too")
    if all(environ.get(name) for name in _TORCHRUN):
        return _by_torchrun(environ)
    if "SLURM_JOB_ID" in environ or "SLURM_STEP_NUM_TASKS" in environ:
        return _by_slurm(environ, given, terminal)
    return Process()


def _by_flags(
    environ: Mapping[str, str], index: int | None, size: int | None, given: tuple[str, int] | None
) -> Process:
    if index is None or size is None:
        missing = "--process-index" if index is None else "--world-size"
        raise UsageError(f"{missing} is missing: --process-index and --world-size belong together, one pair a process")
    if size < 1 or not 0 <= index < size:
        raise UsageError(f"--process-index {index} --world-size {size}: processes are numbered from 0 to {size - 1}")
    if given is None:
        address = environ.get("MASTER_ADDR") or "127.0.0.1"
        given = (address, _number(environ, "MASTER_PORT") if environ.get("MASTER_PORT") else DEFAULT_PORT)
    return Process(index, size, FLAGS, *given)


def _by_torchrun(environ: Mapping[str, str]) -> Process:
    index, size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    if not 0 <= index < size:
        raise UsageError(f"RANK={index} WORLD_SIZE={size}: processes are numbered from 0 to {size - 1}")
    return Process(
        index,
        size,
        TORCHRUN,
        environ["MASTER_ADDR"],
        _number(environ, "MASTER_PORT"),
        served=environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() in ("true", "1"),
        local_index=_number(environ, "LOCAL_RANK") if environ.get("LOCAL_RANK") else None,
        attempt=f"{environ.get('TORCHELASTIC_RUN_ID', '')}.{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}",
    )


def _by_slurm(environ: Mapping[str, str], given: tuple[str, int] | None, terminal: bool) -> Process:
    job = environ.get("SLURM_JOB_ID", environ.get("SLURM_JOBID", "0"))
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", "0"))
    # A batch script has SLURM_PROCID too, and a shell inside an allocation may have inherited a step's variables.
    special = step.isdigit() and int(step) >= _LEAST_SPECIAL_STEP
    foreign = "SLURM_STEP_NUM_TASKS" not in environ or "SLURM_PROCID" not in environ or _is_inherited(environ)
    if terminal or special or foreign:
        what = "a shell" if terminal else "the batch script"
        return Process(
            remark=f"{what} inside Slurm job {job} is no step: one process; `srun skillaxes ...` starts one a task"
        )
    index, size = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_STEP_NUM_TASKS")
    local = _number(environ, "SLURM_LOCALID") if environ.get("SLURM_LOCALID") else None
    if not 0 <= index < size:
        raise UsageError(f"SLURM_PROCID={index} SLURM_STEP_NUM_TASKS={size}: start skillaxes with srun")
    if size == 1:
        return Process(source=SLURM, local_index=local)
    if given is None:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
        hosts = expand_hosts(nodes)
        if not hosts:
            raise UsageError("SLURM_STEP_NODELIST is not set: type --rendezvous HOST:PORT")
        one = environ.get("SLURM_STEP_NUM_NODES", str(len(hosts))) == "1"
        given = ("127.0.0.1" if one else hosts[0], slurm_port(job, step))
    attempt = f"{job}.{step}.{environ.get('SLURM_RESTART_COUNT', '0')}"  # steps of a requeued job count from 0 again
    return Process(index, size, SLURM, *given, local_index=local, attempt=attempt)


def _is_inherited(environ: Mapping[str, str]) -> bool:
    """Whether the step is another one: a batch job that was submitted from inside a step gets its variables, but the
    global numbers of the tasks on this node (SLURM_GTIDS) are its own, a single 0.
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
    """A port that every process of a step finds by itself, and that neighbouring jobs and steps do not share."""
    numbers = [int(text) if text.isdigit() else 0 for text in (job, step)]
    return _SLURM_PORTS[(numbers[0] * 31 + numbers[1]) % len(_SLURM_PORTS)]


def expand_hosts(nodes: str) -> list[str]:
    """The hosts of a Slurm node list: ``"gpu[01-03,7],login"`` is gpu01, gpu02, gpu03, gpu7, login.

    Raises
    ------
    UsageError : not a node list
    """
    hosts: list[str] = []
    for word in _words(nodes):
        hosts += _expanded(word)
    return hosts


def _words(nodes: str) -> list[str]:
    """Split at the commas that stand outside brackets."""
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


def _expanded(word: str) -> list[str]:
    """One word of a node list, with any number of brackets."""
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
    return [word[:opening] + name + rest for name in names for rest in _expanded(word[closing + 1 :])]


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UsageError(f"--rendezvous {text}: needs HOST:PORT, for example node01:{DEFAULT_PORT}")
    return host.strip("[]"), int(port)


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isdigit():
        raise UsageError(f"{name}={text!r} is not a number: unset it, or give --process-index and --world-size")
    return int(text)


def own_rows(store: Store, rank: int, size: int) -> tuple[int, int]:
    """(first, last) of the rows of process ``rank`` of ``size``, last excluded.

    Raises
    ------
    UsageError : more processes than chunks
    """
    return parts(store.n_rows, store.chunk_rows, size)[rank]


def parts(n_rows: int, chunk_rows: int, size: int) -> list[tuple[int, int]]:
    """The rows of every process, in order: cut at the chunk nearest to an even share, at least one chunk each.

    Raises
    ------
    UsageError : more processes than chunks
    """
    n_chunks = -(-n_rows // chunk_rows)
    if size > n_chunks:
        raise UsageError(
            f"{size} processes for a store of {n_chunks} chunks: each takes at least one; start {n_chunks} or fewer, "
            "or ingest the store again with smaller chunks"
        )
    cuts = [0]
    for number in range(1, size):
        even = round(number * n_rows / size / chunk_rows)
        cuts.append(min(max(even, cuts[-1] + 1), n_chunks - (size - number)))
    cuts.append(n_chunks)
    return [(cuts[i] * chunk_rows, min(cuts[i + 1] * chunk_rows, n_rows)) for i in range(size)]


def within(segments: Sequence[tuple[int, int]], rows: tuple[int, int]) -> list[tuple[int, int]]:
    """The parts of some (start, stop) segments that lie within ``rows``."""
    clipped = [(max(start, rows[0]), min(stop, rows[1])) for start, stop in segments]
    return [(start, stop) for start, stop in clipped if start < stop]
