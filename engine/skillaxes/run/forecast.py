"""What a read moves between processes, exactly; and how long W processes would take, from stated rates.

The bytes are those that one process hands to sums and broadcasts; a ring moves up to twice that through its network.
Decisions, plans and k-lists, some kilobytes, are not counted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from skillaxes.cluster.launch import parts
from skillaxes.errors import UsageError
from skillaxes.pca.stability import GROUPS

MOST = 1 << 16  # processes up to which limits are looked for
_TOLERATED = 1.1  # largest part of the rows over an even share that is still called balanced


@dataclass(frozen=True)
class Rates:
    """What a process and what all share can do; every one of them can be stated otherwise.

    Attributes
    ----------
    read : bytes/s that one process gets through a whole read, where that was measured; 0 where it follows from
        storage, link and products
    storage : bytes/s that one process gets from its disk or file system
    storage_total : bytes/s that the file system gives to all processes together; node-local disks have no such limit
    network : bytes/s that one process sends while it receives as much
    latency : seconds from one process to the next
    link : bytes/s from the host into a GPU
    gpu_memory : bytes/s of a GPU from its own memory
    gpu_rows : bytes of a GPU's memory that rows may fill
    cpu, gpu : floating-point operations/s of the two products of a read
    spread : how much longer the slowest process takes than the average one, as a share
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
    """What traffic and time follow from.

    Attributes
    ----------
    n_rows, n_columns, itemsize, chunk_rows : the matrix in use and its chunks
    block_size : columns of a block of the Krylov basis, l
    reads : expected, all in all
    block_traffic : bytes that each process hands to sums and to broadcasts in a first read that finds a block; None
        where there is no such read
    solves : whether a read ends in a Rayleigh-Ritz problem
    scaled : the first read looks for the factors of the columns
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
        return self.n_rows * self.n_columns * self.itemsize


@dataclass(frozen=True)
class Forecast:
    """A read by W processes, in seconds; the slowest process decides.

    Attributes
    ----------
    processes : W
    first, later : seconds of the first read and of each later one
    streaming : seconds of the first read in which rows come from the store, of an average process
    traffic : seconds of a read in which numbers travel
    traffic_bytes : that each process hands over in the last read
    kept : share of a process's rows that stay on its GPU
    balance : the largest part of the rows over an even share
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
    """How long the reads of ``processes`` take.

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
    handed = every_read(shape)[-1]
    traffic = _travelling(handed, processes, rates)
    first = streaming * slower + traffic
    later = max(_streaming(shape, processes, rates, 1 - kept), kept * own / rates.gpu_memory) * slower + traffic
    return Forecast(
        processes=processes,
        first=first,
        later=later,
        streaming=streaming,
        traffic=traffic,
        traffic_bytes=sum(handed.values()),
        kept=kept,
        balance=balance,
        total=first + (shape.reads - 1) * later,
    )


def limits(shape: Shape, rates: Rates = STATED) -> dict[str, int | None]:
    """The fewest processes, among powers of two, at which each becomes the limit; None where none is up to 65,536.

    ``storage``: all together ask more of the file system than it gives. ``traffic``: numbers travel for longer than a
    process takes for its rows in a later read. ``stragglers``: the largest part of the rows is a tenth above an even
    share.
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
    """What ``--dry-run --world-size`` tells: the forecast, traffic by read, limits, and the rates behind them."""
    return {
        **asdict(forecast(shape, processes, rates)),
        "alone": forecast(shape, 1, rates).total,
        "bytes_sent": every_read(shape),
        "limits": limits(shape, rates),
        "rates": asdict(rates),
    }


def rates_from(texts: Sequence[str]) -> Rates:
    """``["network=25e9", ...]`` over the stated ones.

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


def measured(manifest: Mapping[str, Any]) -> float:
    """Bytes/s that one process got through the reads of a job that is done; 0 where none was timed."""
    processes = len(manifest.get("processes") or [None])
    speeds = sorted(
        stage["bytes"] / stage["seconds"] / processes
        for stage in manifest.get("stages", [])
        if "basis" in stage and stage["seconds"] > 0 and stage["bytes"] > 0
    )
    return speeds[len(speeds) // 2] if manifest.get("status") == "done" and speeds else 0.0


def every_read(shape: Shape) -> list[dict[str, int]]:
    """Bytes that each process hands over in each read that is expected, in order.

    What ``incremental`` hands over depends on the rows: its largest is given. So does whether a block is narrower, see
    :func:`skillaxes.pca.krylov.block_size`: none is here.
    """
    d, moments = shape.n_columns, 8 * 2 + 8 * shape.n_layers
    provisional = {"sum": 8 * d + 8 * 2, "broadcast": 8 * d}  # the sample's mean and its rows
    found = []
    if shape.scaled:
        found.append({"sum": 8 * 2 * d + moments + provisional["sum"], "broadcast": 4 * d + provisional["broadcast"]})
    if shape.block_traffic is not None:
        found.append(dict(zip(("sum", "broadcast"), shape.block_traffic, strict=True)))
    count = max(1, shape.reads - len(found))
    widths = [shape.block_size] * count
    return found + [read_bytes(shape, number, widths[:number]) for number in range(1, count + 1)]


def read_bytes(shape: Shape, number: int, widths: Sequence[int]) -> dict[str, int]:
    """Bytes that each process hands over in a Krylov read.

    Parameters
    ----------
    number : of the read, from 1
    widths : columns of each block of the basis as the read had it, its own the last: what the job decided, since a
        block may be narrower and the basis may have begun anew
    """
    d, width = shape.n_columns, widths[-1]
    summed = 8 * d * width  # Z, and the sums of the columns with it
    if number == 1:
        summed += 8 * 2 + 8 * shape.n_layers  # rows that count, their squares; squares by layer
    if shape.solves:
        summed += 8 * GROUPS * (sum(widths) * width + width)
    return {"sum": summed, "broadcast": 4 * d * width}


def held_against(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Predicted and measured bytes that each process handed over in each Krylov read of a job that is done.

    The prediction follows from the basis that the read had.
    """
    plan, found = manifest["plan"], list[dict[str, Any]]()
    shape = Shape(
        n_rows=plan["n_rows"],
        n_columns=plan["n_columns"],
        itemsize=1,
        chunk_rows=manifest["store"]["chunk_rows"],
        block_size=plan["block_size"],
        solves=manifest["command"] == "discover",  # given directions have nothing to solve
        n_layers=len(manifest["layers"]["ids"]),
    )
    for stage in manifest["stages"]:
        if stage["status"] == "done" and "basis" in stage:
            predicted = read_bytes(shape, len(found) + 1, stage["basis"])
            found.append({"name": stage["name"], "predicted": predicted, "measured": stage["bytes_sent"]})
    return found


def _streaming(shape: Shape, processes: int, rates: Rates, share: float) -> float:
    """Seconds in which an average process gets ``share`` of its rows and multiplies all of them."""
    own = shape.nbytes / processes
    total = share * shape.nbytes / rates.storage_total
    if rates.read:
        return max(share * own / rates.read, total)
    disk = max(share * own / rates.storage, total)
    link = share * own / rates.link if shape.on_gpu else 0.0
    operations = 4.0 * shape.n_rows / processes * shape.n_columns * shape.block_size
    return max(disk, link, operations / (rates.gpu if shape.on_gpu else rates.cpu))


def _travelling(handed: dict[str, int], processes: int, rates: Rates) -> float:
    """Seconds of a read's collectives on a ring: a sum passes it twice, a broadcast once."""
    if processes == 1:
        return 0.0
    around = (processes - 1) / processes
    moved = around * (2 * handed["sum"] + handed["broadcast"])
    return moved / rates.network + 5 * 2 * (processes - 1) * rates.latency
