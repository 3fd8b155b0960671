"""The plan of a job: solver, block, panels, reads and memory. ``--dry-run`` prints it.

A plan follows from the shape and dtype of the store, the options, the memory budget, the requirements of the solver and
the device: of a CPU, the size of its outer cache and the backend of its products. No timing enters it.
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
from skillaxes.pca.solvers import UNSCALED
from skillaxes.run import forecast
from skillaxes.run.forecast import STATED, Rates
from skillaxes.stream import gds
from skillaxes.stream.panels import SEGMENT
from skillaxes.stream.prefetch import LAG, LEAST_PANEL_ROWS, LOOK_AHEAD, DeviceMemory, plan_device
from skillaxes.stream.prefetch import panel_rows_for as device_panel_rows
from skillaxes.stream.reader import SLOTS, can_share, fetch_rows
from skillaxes_kernels import BackendChoice, BackendError, PanelSpec, select_backend

if TYPE_CHECKING:
    from skillaxes.store import Store
    from skillaxes.stream.device import DeviceStreams

PANEL_BYTES = 16 << 20  # of a panel on a CPU, as its products read it: it stays in the outer cache with them
SAMPLE_ROWS = 1536  # rows of the warm start
MOST_WORKERS = 8  # threads that fetch chunks
GDS_TAKEN = "taken"  # value of Plan.gds
_ROOMY_CACHE = 64 << 20  # outer cache in which twice as large a panel stays, at fewer passes over the basis
_LEAST_SAMPLE = 256  # rows of the warm start in the smallest budget
_KEPT_SHARE = 16  # projections beyond a 16th of the budget go to disk
_TYPICAL_INTERPRETER = 300 << 20  # bytes of a process after the imports
_LIBRARIES = 96 << 20  # bytes that torch, pyarrow and the matrix library allocate later


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of host memory by purpose. ``total`` is at most ``budget``; ``spilled`` projections are on disk."""

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
        """Bytes held at once."""
        kept = 0 if self.spilled else self.projections
        return self.interpreter + self.buffers + self.panel + self.basis + self.sample + self.rows + kept + self.cache


@dataclass(frozen=True)
class Plan:
    """The plan of a job.

    Attributes
    ----------
    solver, reasons : the solver, and the reasons for it
    device, device_reason : the device, and the reason for it
    products : the backend of the kernels, see :func:`skillaxes_kernels.select_backend`, and the reasons against faster
        ones
    read_path : the path of rows from the store
    n_rows, n_columns : shape of the matrix in use
    block_size : columns of a block of the basis, l
    panel_rows : rows of a panel
    sample_rows : rows of the warm start
    reads : expected reads of the store
    bytes_to_read : bytes from the store over all reads, without those from the cache
    memory : bytes of host memory
    gpu : bytes of GPU memory; None on a CPU
    workers : threads that fetch chunks
    processes : processes that share the job
    rows : rows of this process: (first, last), last excluded
    gds : whether chunks go straight into the memory of the GPU, with the reason if not; None on a CPU
    outlook : forecast of several processes, see :func:`skillaxes.run.forecast.outlook`; None for one
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
        """The plan as plain values for JSON."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}

    def problem(self, stated: Problem) -> Problem:
        """``stated`` with the panels and blocks of this plan."""
        return replace(stated, panel_rows=self.panel_rows, block_columns=self.block_size)

    def halved(self, row_bytes: int) -> Plan | None:
        """The plan with half the rows a panel and half the rows resident on the GPU; None for the smallest plan."""
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

    Process 0 decides whatever changes results: columns of a block, rows of a panel, reads. The sample is the largest
    that every process has memory for.

    Parameters
    ----------
    problem : the problem without panels and blocks
    reasons : reasons for the solver; those of its requirements if empty
    device_reason : reason for the device
    streams : streams of the GPU; None on a CPU
    world : the processes that share the job
    rates : rates of the forecast of several processes

    Raises
    ------
    UsageError : a budget below the least that the job needs, more processes than chunks, or a backend that was named
        and declines
    """
    rows = own_rows(store, world.rank, world.world_size)
    n_columns, device = problem.n_columns, str(problem.device)
    needs = solver.requirements(problem)
    row_bytes = n_columns * store.itemsize
    # Solvers that need the rows themselves and plain torch write panels out in float32.
    products = _products(PanelSpec(0, n_columns, problem.dtype, problem.device))
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
    is_scaled = config.solver.scale != UNSCALED
    reads = needs.reads + is_scaled
    gpu, declined = None, None
    if streams is not None:
        declined = "forbidden by --no-gds" if config.machine.no_gds else gds.declined(store)
        working = model.on_device() + (0 if declined else gds.UNITS * model.unit_bytes)
        size, panel_rows = model.n_rows, model.panel_rows
        gpu = plan_device(streams, n_rows=size, panel_rows=panel_rows, row_bytes=row_bytes, working=working)
    kept_rows = 0 if gpu is None else gpu.kept_rows
    memory_plan = model.plan(kept_rows)
    own_bytes = model.n_rows * store.n_features * store.itemsize
    cached = min(1.0, memory_plan.cache / max(own_bytes, 1) + kept_rows / model.n_rows)
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
        scaled=is_scaled,
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
        memory=memory_plan,
        gpu=gpu,
        workers=model.workers,
        processes=world.world_size,
        rows=rows,
        gds=None if streams is None else (f"not {GDS_TAKEN}: {declined}" if declined else GDS_TAKEN),
        outlook=forecast.outlook(shape, world.world_size, rates) if world.world_size > 1 else None,
    )


def panel_rows_for(row_bytes: int, *, roomy: bool = True) -> int:
    """Rows of a panel on a CPU: a power of two from 64 to 4,096 that fills PANEL_BYTES.

    Parameters
    ----------
    row_bytes : bytes of a row as the products read it
    roomy : whether a large outer cache may hold twice as many bytes
    """
    rows, room = 64, PANEL_BYTES * (2 if roomy and _outer_cache() >= _ROOMY_CACHE else 1)
    while rows < 4096 and 2 * rows * row_bytes <= room:
        rows *= 2
    return rows


def scratch_folder(config: DiscoverConfig) -> Path:
    """The folder for projections on disk: ``--scratch``, or :func:`skillaxes.files.default_scratch`."""
    return config.machine.scratch or default_scratch()


@dataclass(frozen=True)
class MemoryModel:
    """Memory of a job, from its shape, its options and the requirements of its solver.

    Attributes
    ----------
    store, config : the store and the options
    needs : requirements of the solver
    n_columns : columns in use
    panel_rows, sample_rows : rows of a panel and of the warm start
    on_gpu : whether panels are multiplied on a GPU
    n_rows : rows of this process
    world_size, local_world_size : processes of the job, and of the job on this host
    float_rows : whether panels are written out in float32
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
        """Bytes that this process may hold.

        Raises
        ------
        UsageError : ``--memory`` below the least
        """
        return memory.budget(self.config.machine.memory, self.local_world_size)

    @property
    def sampled(self) -> int:
        """The most rows of the warm start in this process: its share and one segment."""
        share = -(-self.sample_rows // self.world_size) + (SEGMENT if self.world_size > 1 else 0)
        return min(self.sample_rows, self.n_rows, share)

    @property
    def unit_bytes(self) -> int:
        """Bytes of a fetch unit."""
        return fetch_rows(self.store) * self.store.n_features * self.store.itemsize

    @property
    def workers(self) -> int:
        """Threads that fetch chunks: one on a CPU.

        A GPU takes chunks faster than one thread fetches and checks them. It has up to a thread for each core, and as
        many as a quarter of the budget has buffers for.
        """
        if not (self.on_gpu and can_share(self.store)):
            return 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        buffers = self.budget // 4 // _power_of_two(self.unit_bytes)
        return max(1, min(MOST_WORKERS, cores, buffers - SLOTS - LAG + 1))

    def fits(self) -> bool:
        """Whether the job fits the budget, in a process of typical size."""
        parts = self._parts() | {"interpreter": _TYPICAL_INTERPRETER + _LIBRARIES}
        return sum(parts.values()) <= self.budget

    def plan(self, kept_rows: int = 0) -> MemoryPlan:
        """The bytes for each purpose; projections and cache fill the rest of the budget.

        Parameters
        ----------
        kept_rows : rows resident on a GPU, which need no cache

        Raises
        ------
        UsageError : a budget below the least that the job needs
        """
        budget = self.budget
        parts = self._parts()
        left = budget - sum(parts.values())
        if left < 0:
            raise self._too_small(parts)
        projections = self.n_rows * (self.needs.block_columns - 1) * 4 * self.needs.kept_blocks
        # Projections on disk cost little time, and memory does not grow with the rows.
        spilled = projections > min(left // 2, budget // _KEPT_SHARE)
        left -= 0 if spilled else projections
        n_units = -(-self.n_rows // fetch_rows(self.store)) - kept_rows // fetch_rows(self.store)
        # Plain files are in the page cache already: a copy costs more, in fresh pages, than it saves in three reads.
        plain = self.store.plain_chunks() is not None
        cache = 0 if plain else min(n_units, max(left, 0) // self.unit_bytes) * self.unit_bytes
        return MemoryPlan(budget=budget, projections=projections, cache=cache, spilled=spilled, **parts)

    def on_device(self) -> int:
        """Bytes of GPU memory for bases and sums, the sample, and panels in float32 (float64 for such a store)."""
        temporaries = self.panel_rows * self.n_columns * (3 * 4 + self._wide)
        return self.needs.basis_bytes + self.sampled * self.n_columns * self.store.itemsize + temporaries

    @property
    def _wide(self) -> int:
        """Bytes of an entry that is written out in float64; 0 where none is."""
        return 8 if self.store.dtype == "float64" else 0

    def _parts(self) -> dict[str, int]:
        """Bytes for each purpose, without projections and cache."""
        store, ranking, d, width = self.store, self.config.ranking, self.n_columns, self.needs.block_columns
        entry = 4 * self.float_rows + self._wide + store.itemsize
        buffers, panel = SLOTS * self.unit_bytes, self.panel_rows * d * entry
        basis = self.needs.basis_bytes
        if self.on_gpu:
            # torch allocates pinned memory in powers of two. The basis on the host is that of the final directions.
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


def _products(spec: PanelSpec) -> BackendChoice:
    try:
        return select_backend(spec)
    except BackendError as error:
        raise UsageError(str(error)) from None


@cache
def _outer_cache() -> int:
    """Bytes of the third-level cache of this machine; 0 if unknown."""
    try:
        return parse_size(Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip() + "iB")
    except (OSError, UsageError):
        return 0


def _read_path(store: Store) -> str:
    return "plain files" if store.plain_chunks() is not None else f"zarr ({store.pipeline})"
