"""What a job will do and hold, before it does anything: solver, block size, reads, memory. ``--dry-run`` prints it.

Everything here follows from shape, dtype, options, budget and kind of device (of a CPU the size of its outer cache and
whether the compiled products serve it); nothing from timings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillaxes.cluster.shards import own_rows
from skillaxes.cluster.world import ALONE, World
from skillaxes.config import DiscoverConfig
from skillaxes.errors import UsageError
from skillaxes.memory import parse_size
from skillaxes.memory_plan import RANDOM_DIRECTIONS, RESERVED_READS, Demand, MemoryPlan
from skillaxes.pca import covariance, incremental, krylov, rule
from skillaxes.stream import device_gds as gds
from skillaxes.stream.device_feed import LOOK_AHEAD
from skillaxes.stream.device_plan import LEAST_PANEL_ROWS, DeviceMemory, plan_device
from skillaxes.stream.device_plan import panel_rows_for as device_panel_rows

if TYPE_CHECKING:
    from skillaxes.store import Store
    from skillaxes.stream.device import Seam
    from skillaxes_kernels import Choice

PANEL_BYTES = 16 << 20  # of a panel on a CPU as its products read it: with them it stays in the outer cache
_ROOMY_CACHE = 64 << 20  # an outer cache in which twice as large a panel stays, at fewer passes over the basis
SAMPLE_ROWS = 1536  # rows of the warm start
_LEAST_SAMPLE = 256
GIVEN = "given directions"


@dataclass(frozen=True)
class Plan:
    """What a job will do.

    Attributes
    ----------
    solver, reasons : which solver, and why
    device, device_reason : where it computes, and why
    products : what multiplies panels there, as ``skillaxes_kernels.which`` says, and why nothing faster does
    road : how rows come from the store
    n_rows, n_columns : the matrix in use
    block_size : columns of a block of the Krylov basis
    panel_rows : rows a panel
    sample_rows : rows of the warm start
    reads : reads of the store that are expected
    bytes_to_read : from the store, over all reads that the cache does not serve
    memory : what is held
    gpu : what is held on the GPU; None on a CPU
    workers : threads that fetch chunks
    processes : that share the job
    rows : (first, last) of this process's part, last excluded
    gds : whether chunks go straight into the GPU's memory, and if not, why; None on a CPU
    outlook : predicted time and traffic of several processes, see :func:`skillaxes.traffic.outlook`; None for one
    """

    solver: str
    reasons: tuple[str, ...]
    device: str
    device_reason: str
    products: str
    road: str
    n_rows: int
    n_columns: int
    block_size: int
    panel_rows: int
    sample_rows: int
    reads: int
    bytes_to_read: int
    memory: MemoryPlan
    gpu: DeviceMemory | None = None
    gds: str | None = None
    workers: int = 1
    processes: int = 1
    rows: tuple[int, int] = (0, 0)
    outlook: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def make_plan(
    store: Store,
    config: DiscoverConfig,
    n_columns: int,
    device: str,
    device_reason: str,
    given: str | None = None,
    seam: Seam | None = None,
    world: World = ALONE,
) -> Plan:
    """Plan a job.

    What changes results is process 0's: solver, widths, panels, reads; the sample is the largest that all can hold.

    Parameters
    ----------
    world : the processes that share the job
    seam : to the GPU; None on a CPU
    given : where directions come from that are only applied; None where they are to be found

    Raises
    ------
    UsageError : the budget cannot hold the least that the job needs; more processes than chunks; products for the CPU
        that were named and are not there
    """
    rows = own_rows(store, world.rank, world.size)
    choice = rule.choose_solver(store.n_rows, n_columns, config.components, config.solver)
    width = rule.block_size(config.components, n_columns, krylov.UTILITY, storage_bound=seam is not None)
    if given is not None:
        choice = rule.SolverChoice(GIVEN, (f"{config.components} directions from {given}",))
        width = _widened(config.components + RANDOM_DIRECTIONS, config.components + RANDOM_DIRECTIONS)
    elif choice.name == "covariance":
        width = _widened(config.components + covariance.SUBSPACE, n_columns)
    elif choice.name == "incremental":
        width = _widened(incremental.capacity(n_columns, config.components), n_columns)
    reads = {"krylov": min(RESERVED_READS, config.max_reads), GIVEN: 1}.get(choice.name, 2) + (config.scale != "none")
    row_bytes = n_columns * store.itemsize
    # Solvers that need the rows themselves have them in float32, and so has plain torch.
    products = _products(device, store.dtype, n_columns, width)
    converts = choice.name in ("covariance", "incremental") or products.name not in ("amx", "avx512")
    panel_row = n_columns * (4 if converts else store.itemsize)
    demand = Demand(
        store=store,
        config=config,
        solver=choice.name,
        n_columns=n_columns,
        width=width,
        panel_rows=panel_rows_for(panel_row) if seam is None else device_panel_rows(row_bytes, seam.l2_bytes()),
        converts=converts,
        sample_rows=min(SAMPLE_ROWS, store.n_rows),
        on_gpu=seam is not None,
        n_rows=rows[1] - rows[0],
        size=world.size,
        here=world.here,
    )
    if seam is None and not demand.fits():
        demand = replace(demand, panel_rows=panel_rows_for(panel_row, roomy=False))
    while demand.sample_rows > _LEAST_SAMPLE and not demand.fits():
        demand = replace(demand, sample_rows=max(_LEAST_SAMPLE, demand.sample_rows // 2))
    if world.size > 1:
        sample_rows = min(world.gather(demand.sample_rows))
        choice, width, reads, panel_rows = world.share((choice, width, reads, demand.panel_rows))
        demand = replace(demand, solver=choice.name, width=width, panel_rows=panel_rows, sample_rows=sample_rows)
    gpu, declined = None, None
    if seam is not None:
        declined = "forbidden by --no-gds" if config.no_gds else gds.declined(store)
        working = demand.on_device() + (0 if declined else gds.UNITS * demand.unit_bytes)
        size, panel_rows = demand.n_rows, demand.panel_rows
        gpu = plan_device(seam, n_rows=size, panel_rows=panel_rows, row_bytes=row_bytes, working=working)
    kept_rows = 0 if gpu is None else gpu.kept_rows
    held = demand.plan(kept_rows)
    own_bytes = demand.n_rows * store.n_features * store.itemsize
    cached = min(1.0, held.cache / max(own_bytes, 1) + kept_rows / demand.n_rows)
    from_store = store.nbytes * (1 + (reads - 1) * (1 - cached))
    return Plan(
        solver=choice.name,
        reasons=choice.reasons,
        device=device,
        device_reason=device_reason,
        products="; ".join((products.name, *products.reasons[1:])),
        road=gds.ROAD if seam is not None and declined is None else _road(store),
        n_rows=store.n_rows,
        n_columns=n_columns,
        block_size=width,
        panel_rows=demand.panel_rows,
        sample_rows=demand.sample_rows,
        reads=reads,
        bytes_to_read=int(from_store),
        memory=held,
        gpu=gpu,
        workers=demand.workers,
        processes=world.size,
        rows=rows,
        gds=None if seam is None else (f"not taken: {declined}" if declined else "taken"),
    )


def smaller(plan: Plan, row_bytes: int) -> Plan | None:
    """``plan`` with half the rows a panel and half the rows kept on the GPU; None when there is nothing to halve."""
    assert plan.gpu is not None
    rows = max(plan.panel_rows // 2, LEAST_PANEL_ROWS)
    panels = plan.gpu.kept_rows // 2 // rows
    if rows >= plan.panel_rows and plan.gpu.kept_rows == 0:
        return None
    ring = (LOOK_AHEAD + 1) * rows * row_bytes
    gpu = replace(plan.gpu, kept=panels * rows * row_bytes, kept_rows=panels * rows, ring=ring)
    return replace(plan, panel_rows=rows, gpu=gpu)


def _products(device: str, dtype: str, n_columns: int, width: int) -> Choice:
    from skillaxes.stream.plain_files import TORCH_DTYPES
    from skillaxes_kernels import BackendError, which

    try:
        return which(device, TORCH_DTYPES[dtype], n_columns, width)
    except BackendError as error:
        raise UsageError(str(error)) from None


def panel_rows_for(row_bytes: int, *, roomy: bool = True) -> int:
    """Rows a panel: a power of two between 64 and 4,096 that fills PANEL_BYTES, or twice that in a large cache."""
    rows, room = 64, PANEL_BYTES * (2 if roomy and _outer_cache() >= _ROOMY_CACHE else 1)
    while rows < 4096 and 2 * rows * row_bytes <= room:
        rows *= 2
    return rows


@cache
def _outer_cache() -> int:
    """Bytes of this machine's third-level cache; 0 where it does not say."""
    try:
        return parse_size(Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip() + "iB")
    except (OSError, UsageError):
        return 0


def scratch_folder(config: DiscoverConfig) -> Path:
    """Where spilled projections go: ``--scratch``, $SLURM_TMPDIR, or the system's temporary folder ($TMPDIR)."""
    import os
    import tempfile

    if config.scratch is not None:
        return config.scratch
    return Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir())


def _widened(directions: int, n_columns: int) -> int:
    wanted = min(directions, n_columns) + krylov.UTILITY
    return -(-wanted // rule.MULTIPLE) * rule.MULTIPLE


def _road(store: Store) -> str:
    return "plain files" if store.plain_chunks() is not None else f"zarr ({store.pipeline})"
