"""Forecast of several processes: bytes of each read, exactly, and time, from stated rates.

Bytes are those that one process gives to all_reduce and broadcast. A ring moves up to twice as many through the network
of a process. Decisions, plans and top-k lists, some kilobytes, are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from skillaxes.cluster.launch import parts
from skillaxes.errors import UsageError
from skillaxes.pca.stability import GROUPS
from skillaxes.run import stage_log
from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.schema import DISCOVER, Manifest

MOST = 1 << 16  # the most processes in a search for limits
_TOLERATED = 1.1  # largest part of the rows over an even share that counts as balanced


@dataclass(frozen=True)
class Rates:
    """Rates of a process and of shared resources; ``--rate`` replaces any of them.

    Attributes
    ----------
    read : measured bytes/s of one process over a whole read; 0 to compute it from storage, link and products
    storage : bytes/s of the disk or file system for one process
    storage_total : bytes/s of the file system for all processes together; infinite for node-local disks
    network : bytes/s that one process sends while it receives as many
    latency : seconds from one process to the next
    link : bytes/s from the host to a GPU
    gpu_memory : bytes/s of the memory of a GPU
    gpu_rows : bytes of rows that fit the memory of a GPU
    cpu, gpu : floating-point operations/s of the two products of a read
    spread : time of the slowest process over that of the average one, less 1
    """

    read: float = 0.0
    storage: float = 2.5e9
    storage_total: float = 50e9
    network: float = 12.5e9
    latency: float = 20e-6
    link: float = 50e9
    gpu_memory: float = 2.5e12
    gpu_rows: float = 60e9
    cpu: float = 100e9
    gpu: float = 200e12
    spread: float = 0.05


STATED = Rates()


@dataclass(frozen=True)
class Shape:
    """Shape of a job, from which traffic and time follow.

    Attributes
    ----------
    n_rows, n_columns, itemsize, chunk_rows : the matrix in use and its chunks
    block_size : columns of a block of the basis, l
    reads : expected reads
    block_traffic : bytes that each process gives to all_reduce and to broadcast in a first read that finds a block;
        None where there is no such read
    solves : whether a read ends in a Rayleigh-Ritz problem
    scaled : whether the first read finds the factors of the columns
    n_layers : layers whose variance is summed
    on_gpu : whether rows go to a GPU
    """

    n_rows: int
    n_columns: int
    itemsize: int
    chunk_rows: int
    block_size: int
    reads: int = 3
    block_traffic: tuple[int, int] | None = None
    solves: bool = True
    scaled: bool = False
    n_layers: int = 0
    on_gpu: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        return self.n_rows * self.n_columns * self.itemsize


@dataclass(frozen=True)
class Forecast:
    """Time and traffic of the reads of W processes; the slowest process determines the time.

    Attributes
    ----------
    processes : W
    first, later : seconds of the first read and of each later one
    streaming : seconds in which an average process streams its rows in the first read
    traffic : seconds of the collectives of a read
    traffic_bytes : bytes that each process gives to collectives in the last read
    kept : share of the rows of a process that are resident on its GPU
    balance : largest part of the rows over an even share
    total : seconds of all reads
    """

    processes: int
    first: float
    later: float
    streaming: float
    traffic: float
    traffic_bytes: int
    kept: float
    balance: float
    total: float


def forecast(shape: Shape, processes: int, rates: Rates = STATED) -> Forecast:
    """Time and traffic of the reads of ``processes`` processes.

    Raises
    ------
    UsageError : more processes than chunks
    """
    largest = max(stop - start for start, stop in parts(shape.n_rows, shape.chunk_rows, processes))
    balance = largest * processes / shape.n_rows
    own = shape.nbytes / processes
    kept = min(1.0, rates.gpu_rows / own) if shape.on_gpu else 0.0
    streaming = _streaming(shape, processes, rates, 1.0)
    slower = balance * (1 + (rates.spread if processes > 1 else 0.0))
    sent = every_read(shape)[-1]
    traffic = _collectives(sent, processes, rates)
    first = streaming * slower + traffic
    later = max(_streaming(shape, processes, rates, 1 - kept), kept * own / rates.gpu_memory) * slower + traffic
    return Forecast(
        processes=processes,
        first=first,
        later=later,
        streaming=streaming,
        traffic=traffic,
        traffic_bytes=sum(sent.values()),
        kept=kept,
        balance=balance,
        total=first + (shape.reads - 1) * later,
    )


def limits(shape: Shape, rates: Rates = STATED) -> dict[str, int | None]:
    """The smallest power of two of processes at which each resource is the limit; None for none up to 65,536.

    ``storage``: the file system is slower than all processes together. ``traffic``: the collectives of a later read
    take longer than its rows. ``stragglers``: the largest part of the rows is a tenth above an even share.
    """
    found: dict[str, int | None] = {"storage": None, "traffic": None, "stragglers": None}
    processes = 2
    while processes <= min(MOST, -(-shape.n_rows // shape.chunk_rows)):
        one = forecast(shape, processes, rates)
        alone = _streaming(shape, processes, replace(rates, storage_total=float("inf")), 1.0)
        now = {
            "storage": one.streaming > alone,
            "traffic": one.traffic > one.later - one.traffic,
            "stragglers": one.balance > _TOLERATED,
        }
        for name, reached in now.items():
            if reached and found[name] is None:
                found[name] = processes
        processes *= 2
    return found


def outlook(shape: Shape, processes: int, rates: Rates = STATED) -> dict[str, Any]:
    """The forecast of ``--dry-run --world-size``, with traffic by read, limits and rates, as plain values for JSON."""
    return {
        **asdict(forecast(shape, processes, rates)),
        "alone": forecast(shape, 1, rates).total,
        "bytes_sent": every_read(shape),
        "limits": limits(shape, rates),
        "rates": asdict(rates),
    }


def rates_from(texts: Sequence[str]) -> Rates:
    """The stated rates with some replaced, from texts such as ``network=25e9``.

    Raises
    ------
    UsageError : an unknown name or no number
    """
    known = {field.name for field in fields(Rates)}
    given: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            given[name.strip().replace("-", "_")] = float(value)
        except ValueError:
            raise UsageError(f"--rate {text}: needs NAME=NUMBER, for example network=25e9") from None
        if name.strip().replace("-", "_") not in known or not float(value) > 0:
            raise UsageError(f"--rate {text}: the rates are {', '.join(sorted(known))}, all above 0")
    return replace(STATED, **given)


def measured(manifest: Manifest) -> float:
    """Median bytes/s of one process over the Krylov reads of a finished job; 0 without such reads."""
    processes = len(manifest.get("processes") or [{}])
    speeds = sorted(
        stage["bytes"] / stage["seconds"] / processes
        for stage in manifest.get("stages", [])
        if "basis" in stage and stage["seconds"] > 0 and stage["bytes"] > 0
    )
    return speeds[len(speeds) // 2] if manifest.get("status") == manifests.DONE and speeds else 0.0


def every_read(shape: Shape) -> list[dict[str, int]]:
    """Bytes that each process gives to collectives in each expected read, in order.

    Where bytes depend on the rows they are the largest possible ones: those of ``incremental``, and those of blocks
    without the narrower ones of :func:`skillaxes.pca.krylov.block_width`.
    """
    d, moments = shape.n_columns, 8 * 2 + 8 * shape.n_layers
    provisional = {"sum": 8 * d + 8 * 2, "broadcast": 8 * d}  # sum of the sample and its rows
    found = []
    if shape.scaled:
        found.append({"sum": 8 * 2 * d + moments + provisional["sum"], "broadcast": 4 * d + provisional["broadcast"]})
    if shape.block_traffic is not None:
        found.append(dict(zip(("sum", "broadcast"), shape.block_traffic, strict=True)))
    count = max(1, shape.reads - len(found))
    widths = [shape.block_size] * count
    return found + [read_bytes(shape, number, widths[:number]) for number in range(1, count + 1)]


def read_bytes(shape: Shape, number: int, widths: Sequence[int]) -> dict[str, int]:
    """Bytes that each process gives to collectives in a Krylov read.

    Parameters
    ----------
    number : number of the read, from 1
    widths : columns of each block of the basis in this read, that of its own block last; blocks may be narrower than l,
        and a restart empties the basis
    """
    d, width = shape.n_columns, widths[-1]
    summed = 8 * d * width  # Z, and the sums of the columns with it
    if number == 1:
        summed += 8 * 2 + 8 * shape.n_layers  # rows that count, their squares; squares by layer
    if shape.solves:
        summed += 8 * GROUPS * (sum(widths) * width + width)
    return {"sum": summed, "broadcast": 4 * d * width}


def held_against(manifest: Manifest) -> list[dict[str, Any]]:
    """Predicted and measured bytes that each process gave to collectives in each Krylov read of a finished job.

    Predictions follow from the basis of each read.
    """
    plan, found = manifest["plan"], list[dict[str, Any]]()
    shape = Shape(
        n_rows=plan["n_rows"],
        n_columns=plan["n_columns"],
        itemsize=1,
        chunk_rows=manifest["store"]["chunk_rows"],
        block_size=plan["block_size"],
        solves=manifest["command"] == DISCOVER,  # given directions have nothing to solve
        n_layers=len(manifest["layers"]["ids"]),
    )
    for stage in manifest["stages"]:
        if stage["status"] == stage_log.DONE and "basis" in stage:
            predicted = read_bytes(shape, len(found) + 1, stage["basis"])
            found.append({"name": stage["name"], "predicted": predicted, "measured": stage["bytes_sent"]})
    return found


def _streaming(shape: Shape, processes: int, rates: Rates, share: float) -> float:
    """Seconds in which an average process reads ``share`` of its rows and multiplies all of them."""
    own = shape.nbytes / processes
    total = share * shape.nbytes / rates.storage_total
    if rates.read:
        return max(share * own / rates.read, total)
    disk = max(share * own / rates.storage, total)
    link = share * own / rates.link if shape.on_gpu else 0.0
    operations = 4.0 * shape.n_rows / processes * shape.n_columns * shape.block_size
    return max(disk, link, operations / (rates.gpu if shape.on_gpu else rates.cpu))


def _collectives(sent: dict[str, int], processes: int, rates: Rates) -> float:
    """Seconds of the collectives of a read on a ring, which all_reduce passes twice and broadcast once."""
    if processes == 1:
        return 0.0
    around = (processes - 1) / processes
    moved = around * (2 * sent["sum"] + sent["broadcast"])
    return moved / rates.network + 5 * 2 * (processes - 1) * rates.latency
