"""The plan of a job: solver, block, panels, reads and memory, before it does anything. ``--dry-run`` prints it.

Everything here follows from shape, dtype, options, budget and kind of device (of a CPU the size of its outer cache and
whether the compiled products serve it), and from what the solver requires; nothing from timings.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillaxes import memory
from skillaxes.cluster.launch import own_rows
from skillaxes.cluster.world import ALONE, World
from skillaxes.config import DiscoverConfig
from skillaxes.errors import UsageError
from skillaxes.files import default_scratch
from skillaxes.memory import parse_size
from skillaxes.pca.base import RANDOM_DIRECTIONS, Problem, Requirements, Solver
from skillaxes.pca.projections import BLOCK_ROWS
from skillaxes.run import forecast
from skillaxes.run.forecast import STATED, Rates
from skillaxes.stream import gds
from skillaxes.stream.panels import SEGMENT
from skillaxes.stream.prefetch import LAG, LEAST_PANEL_ROWS, LOOK_AHEAD, DeviceMemory, plan_device
from skillaxes.stream.prefetch import panel_rows_for as device_panel_rows
from skillaxes.stream.reader import SLOTS, can_share, fetch_rows
from skillaxes_kernels import PanelSpec, select_backend

if TYPE_CHECKING:
    from skillaxes.store import Store
    from skillaxes.stream.device import DeviceStreams

PANEL_BYTES = 16 << 20  # of a panel on a CPU as its products read it: with them it stays in the outer cache
SAMPLE_ROWS = 1536  # rows of the warm start
MOST_WORKERS = 8
_ROOMY_CACHE = 64 << 20  # an outer cache in which twice as large a panel stays, at fewer passes over the basis
_LEAST_SAMPLE = 256
_KEPT_SHARE = 16  # of the budget: projections beyond it go to disk
_TYPICAL_INTERPRETER = 300 << 20
_LIBRARIES = 96 << 20  # what torch, pyarrow and the matrix library still allocate for themselves


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, by purpose. ``total`` is held within ``budget``."""

    budget: int
    interpreter: int
    buffers: int
    panel: int
    basis: int
    sample: int
    rows: int
    projections: int
    cache: int
    spilled: bool

    @property
    def total(self) -> int:
        """All that is held at once."""
        kept = 0 if self.spilled else self.projections
        return self.interpreter + self.buffers + self.panel + self.basis + self.sample + self.rows + kept + self.cache


@dataclass(frozen=True)
class Plan:
    """The plan of a job.

    Attributes
    ----------
    solver, reasons : the solver, and why it
    device, device_reason : the device, and why it
    products : the backend of the kernels there, as ``skillaxes_kernels.select_backend`` chooses it, and why none that
        is faster
    read_path : how rows come from the store
    n_rows, n_columns : the matrix in use
    block_size : columns of a block of the Krylov basis
    panel_rows : rows a panel
    sample_rows : rows of the warm start
    reads : reads of the store that are expected
    bytes_to_read : from the store, over all reads that the cache does not serve
    memory : bytes held on the host
    gpu : bytes held on the GPU; None on a CPU
    workers : threads that fetch chunks
    processes : that share the job
    rows : (first, last) of this process's part, last excluded
    gds : whether chunks go straight into the GPU's memory, and if not, why; None on a CPU
    outlook : predicted time and traffic of several processes, see :func:`skillaxes.run.forecast.outlook`; None for one
    """

    solver: str
    reasons: tuple[str, ...]
    device: str
    device_reason: str
    products: str
    read_path: str
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

    def problem(self, stated: Problem) -> Problem:
        """The problem with the panels and blocks of this plan."""
        return replace(stated, panel_rows=self.panel_rows, block_columns=self.block_size)

    def halved(self, row_bytes: int) -> Plan | None:
        """The plan with half the rows a panel and half the rows kept on the GPU; None when there is nothing to
        halve.
        """
        assert self.gpu is not None
        rows = max(self.panel_rows // 2, LEAST_PANEL_ROWS)
        panels = self.gpu.kept_rows // 2 // rows
        if rows >= self.panel_rows and self.gpu.kept_rows == 0:
            return None
        ring = (LOOK_AHEAD + 1) * rows * row_bytes
        gpu = replace(self.gpu, kept=panels * rows * row_bytes, kept_rows=panels * rows, ring=ring)
        return replace(self, panel_rows=rows, gpu=gpu)


def make_plan(
    store: Store,
    config: DiscoverConfig,
    problem: Problem,
    solver: Solver[Any],
    *,
    reasons: tuple[str, ...] = (),
    device_reason: str = "",
    streams: DeviceStreams | None = None,
    world: World = ALONE,
    rates: Rates = STATED,
) -> Plan:
    """Plan a job.

    Process 0 decides on everything that changes results: widths, panels, reads; the sample is the largest that all can
    hold.

    Parameters
    ----------
    problem : as the store and the options state it, not planned yet
    reasons : why this solver
    streams : of the GPU; None on a CPU
    world : the processes that share the job
    rates : what the time of several processes is predicted from

    Raises
    ------
    UsageError : the budget cannot hold the least that the job needs; more processes than chunks
    """
    rows = own_rows(store, world.rank, world.world_size)
    n_columns, device = problem.n_columns, str(problem.device)
    needs = solver.requirements(problem)
    row_bytes = n_columns * store.itemsize
    # Solvers that need the rows themselves have them in float32, and so has plain torch.
    products = select_backend(PanelSpec(0, n_columns, problem.dtype, problem.device))
    float_rows = needs.float_rows or products.converts
    panel_row = n_columns * (4 if float_rows else store.itemsize)
    model = MemoryModel(
        store=store,
        config=config,
        needs=needs,
        n_columns=n_columns,
        panel_rows=panel_rows_for(panel_row) if streams is None else device_panel_rows(row_bytes, streams.l2_bytes()),
        float_rows=float_rows,
        sample_rows=min(SAMPLE_ROWS, store.n_rows),
        on_gpu=streams is not None,
        n_rows=rows[1] - rows[0],
        world_size=world.world_size,
        local_world_size=world.local_world_size,
    )
    if streams is None and not model.fits():
        model = replace(model, panel_rows=panel_rows_for(panel_row, roomy=False))
    while model.sample_rows > _LEAST_SAMPLE and not model.fits():
        model = replace(model, sample_rows=max(_LEAST_SAMPLE, model.sample_rows // 2))
    if world.world_size > 1:
        sample_rows = min(world.all_gather_object(model.sample_rows))
        needs, panel_rows = world.broadcast_object((needs, model.panel_rows))
        model = replace(model, needs=needs, panel_rows=panel_rows, sample_rows=sample_rows)
    reads = needs.reads + (config.solver.scale != "none")
    gpu, declined = None, None
    if streams is not None:
        declined = "forbidden by --no-gds" if config.machine.no_gds else gds.declined(store)
        working = model.on_device() + (0 if declined else gds.UNITS * model.unit_bytes)
        size, panel_rows = model.n_rows, model.panel_rows
        gpu = plan_device(streams, n_rows=size, panel_rows=panel_rows, row_bytes=row_bytes, working=working)
    kept_rows = 0 if gpu is None else gpu.kept_rows
    held = model.plan(kept_rows)
    own_bytes = model.n_rows * store.n_features * store.itemsize
    cached = min(1.0, held.cache / max(own_bytes, 1) + kept_rows / model.n_rows)
    from_store = store.nbytes * (1 + (reads - 1) * (1 - cached))
    shape = forecast.Shape(
        n_rows=store.n_rows,
        n_columns=n_columns,
        itemsize=store.itemsize,
        chunk_rows=store.chunk_rows,
        block_size=needs.block_columns,
        reads=reads,
        block_traffic=needs.block_traffic,
        solves=needs.solves,
        scaled=config.solver.scale != "none",
        n_layers=len(problem.layers),
        on_gpu=streams is not None,
    )
    return Plan(
        solver=solver.name,
        reasons=reasons or needs.reasons,
        device=device,
        device_reason=device_reason,
        products="; ".join((products.name, *products.reasons[1:])),
        read_path=gds.READ_PATH if streams is not None and declined is None else _read_path(store),
        n_rows=store.n_rows,
        n_columns=n_columns,
        block_size=needs.block_columns,
        panel_rows=model.panel_rows,
        sample_rows=model.sample_rows,
        reads=reads,
        bytes_to_read=int(from_store),
        memory=held,
        gpu=gpu,
        workers=model.workers,
        processes=world.world_size,
        rows=rows,
        gds=None if streams is None else (f"not taken: {declined}" if declined else "taken"),
        outlook=forecast.outlook(shape, world.world_size, rates) if world.world_size > 1 else None,
    )


def panel_rows_for(row_bytes: int, *, roomy: bool = True) -> int:
    """Rows a panel: a power of two between 64 and 4,096 that fills PANEL_BYTES, or twice that in a large cache."""
    rows, room = 64, PANEL_BYTES * (2 if roomy and _outer_cache() >= _ROOMY_CACHE else 1)
    while rows < 4096 and 2 * rows * row_bytes <= room:
        rows *= 2
    return rows


def scratch_folder(config: DiscoverConfig) -> Path:
    """The folder for what memory does not hold: ``--scratch``, or the default of :func:`default_scratch`."""
    return config.machine.scratch or default_scratch()


@dataclass(frozen=True)
class MemoryModel:
    """Memory of a job, as it follows from its shape and from what its solver requires.

    Attributes
    ----------
    needs : of the solver
    n_columns : columns in use
    panel_rows, sample_rows : rows of a panel and of the warm start
    on_gpu : the arithmetic is done on a GPU
    float_rows : panels are written out in float32
    n_rows : rows of this process; all of the store where it is alone
    world_size, local_world_size : processes of the job, and of those on this host
    """

    store: Store
    config: DiscoverConfig
    needs: Requirements
    n_columns: int
    panel_rows: int
    sample_rows: int
    on_gpu: bool
    n_rows: int
    world_size: int = 1
    local_world_size: int = 1
    float_rows: bool = True

    @property
    def budget(self) -> int:
        """Bytes that this process may hold."""
        return memory.budget(self.config.machine.memory, self.local_world_size)

    @property
    def sampled(self) -> int:
        """Rows of the warm start that this process may have: its share and a segment."""
        share = -(-self.sample_rows // self.world_size) + (SEGMENT if self.world_size > 1 else 0)
        return min(self.sample_rows, self.n_rows, share)

    @property
    def unit_bytes(self) -> int:
        """Bytes that are fetched at once."""
        return fetch_rows(self.store) * self.store.n_features * self.store.itemsize

    @property
    def workers(self) -> int:
        """Threads that fetch chunks for a GPU, which takes them faster than one thread can fetch and check them: up to
        a core each, and as many as a quarter of the budget has buffers for.
        """
        if not (self.on_gpu and can_share(self.store)):
            return 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        buffers = self.budget // 4 // _power_of_two(self.unit_bytes)
        return max(1, min(MOST_WORKERS, cores, buffers - SLOTS - LAG + 1))

    def fits(self) -> bool:
        """Whether it fits the budget; the same answer in a process that holds other things too."""
        parts = self._parts() | {"interpreter": _TYPICAL_INTERPRETER + _LIBRARIES}
        return sum(parts.values()) <= self.budget

    def plan(self, kept_rows: int = 0) -> MemoryPlan:
        """How the budget is shared out; ``kept_rows`` need no cache here, since they stay on a GPU.

        Raises
        ------
        UsageError : the budget cannot hold the least that the job needs
        """
        budget = self.budget
        parts = self._parts()
        left = budget - sum(parts.values())
        if left < 0:
            raise self._too_small(parts)
        projections = self.n_rows * (self.needs.block_columns - 1) * 4 * self.needs.kept_blocks
        # A file costs little more than memory does, and memory that does not grow with the rows is worth it.
        spilled = projections > min(left // 2, budget // _KEPT_SHARE)
        left -= 0 if spilled else projections
        n_units = -(-self.n_rows // fetch_rows(self.store)) - kept_rows // fetch_rows(self.store)
        # Plain files are in the page cache already; a copy of ours would cost more (fresh pages) than it saves in three
        # reads.
        plain = self.store.plain_chunks() is not None
        cache = 0 if plain else min(n_units, max(left, 0) // self.unit_bytes) * self.unit_bytes
        return MemoryPlan(budget=budget, projections=projections, cache=cache, spilled=spilled, **parts)

    def on_device(self) -> int:
        """Bytes of GPU memory that the solver holds: bases and sums, the sample, and panels in float32 (float64 where
        the store is).
        """
        temporaries = self.panel_rows * self.n_columns * (3 * 4 + self._wide)
        return self.needs.basis_bytes + self.sampled * self.n_columns * self.store.itemsize + temporaries

    @property
    def _wide(self) -> int:
        return 8 if self.store.dtype == "float64" else 0

    def _parts(self) -> dict[str, int]:
        store, ranking, d, width = self.store, self.config.ranking, self.n_columns, self.needs.block_columns
        entry = 4 * self.float_rows + self._wide + store.itemsize
        buffers, panel = SLOTS * self.unit_bytes, self.panel_rows * d * entry
        basis = self.needs.basis_bytes
        if self.on_gpu:
            # torch takes page-locked memory in powers of two. What comes back in the end are the directions.
            buffers = (SLOTS + LAG + self.workers - 1) * _power_of_two(self.unit_bytes)
            staging = (LOOK_AHEAD + 1) * _power_of_two(self.panel_rows * d * store.itemsize)
            panel = 0 if d == store.n_features else staging
            basis = 2 * d * width * 8
        directions = self.config.solver.components + RANDOM_DIRECTIONS
        lists = directions * (BLOCK_ROWS * 8 * 8 + 4 * max(ranking.pool, ranking.top) * 64)
        return {
            "interpreter": memory.resident() + _LIBRARIES,
            "buffers": buffers,
            "panel": panel,
            "basis": basis,
            "sample": self.sampled * (d if d == store.n_features else d + store.n_features) * store.itemsize,
            "rows": self.n_rows * 9 + 3 * BLOCK_ROWS * self.needs.kept_blocks * width * 8 + lists,
        }

    def _too_small(self, parts: dict[str, int]) -> UsageError:
        needed = sum(parts.values())
        largest = max(parts, key=lambda name: parts[name])
        hint = f"type --memory {(needed >> 20) + 1}MiB or more"
        if largest == "buffers":
            hint += ", or ingest the store again with smaller chunks"
        return UsageError(
            f"--memory {memory.show(self.budget)}: this job needs {memory.show(needed)} "
            f"({largest}: {memory.show(parts[largest])}); {hint}"
        )


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


@cache
def _outer_cache() -> int:
    """Bytes of this machine's third-level cache; 0 where it does not say."""
    try:
        return parse_size(Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip() + "iB")
    except (OSError, UsageError):
        return 0


def _read_path(store: Store) -> str:
    return "plain files" if store.plain_chunks() is not None else f"zarr ({store.pipeline})"
