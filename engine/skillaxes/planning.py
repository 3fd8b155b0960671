"""What a job will do and hold, before it does anything: solver, block size, reads, memory. ``--dry-run`` prints it.

Everything here follows from shape, dtype, options, budget and kind of device; nothing from timings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillaxes import memory
from skillaxes.config import DiscoverConfig
from skillaxes.errors import UsageError
from skillaxes.pca import covariance, incremental, krylov, rule
from skillaxes.pca.projections import BLOCK_ROWS
from skillaxes.stream.reader import SLOTS, unit_rows

if TYPE_CHECKING:
    from skillaxes.store import Store

PANEL_BYTES = 16 << 20  # of a float32 panel on a CPU: with its products it stays in the outer cache
SAMPLE_ROWS = 1536  # rows of the warm start
_LEAST_SAMPLE = 256
_RESERVED_READS = 3  # reads whose blocks and projections are planned for
_TYPICAL_INTERPRETER = 300 << 20
_LIBRARIES = 96 << 20  # what torch, pyarrow and the matrix library still allocate for themselves
GIVEN = "given directions"
RANDOM_DIRECTIONS = 20  # ranked beside the components, as a baseline for labels


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
    """What a job will do.

    Attributes
    ----------
    solver, reasons : which solver, and why
    device, device_reason : where it computes, and why
    road : how rows come from the store
    n_rows, n_columns : the matrix in use
    block_size : columns of a block of the Krylov basis
    panel_rows : rows a panel
    sample_rows : rows of the warm start
    reads : reads of the store that are expected
    bytes_to_read : from the store, over all reads that the cache does not serve
    memory : what is held
    """

    solver: str
    reasons: tuple[str, ...]
    device: str
    device_reason: str
    road: str
    n_rows: int
    n_columns: int
    block_size: int
    panel_rows: int
    sample_rows: int
    reads: int
    bytes_to_read: int
    memory: MemoryPlan

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def make_plan(
    store: Store, config: DiscoverConfig, n_columns: int, device: str, device_reason: str, given: str | None = None
) -> Plan:
    """Plan a job.

    Parameters
    ----------
    given : where directions come from that are only applied; None where they are to be found

    Raises
    ------
    UsageError : the budget cannot hold the least that the job needs
    """
    choice = rule.choose_solver(store.n_rows, n_columns, config.components, config.solver)
    width = rule.block_size(config.components, n_columns, krylov.UTILITY)
    if given is not None:
        choice = rule.SolverChoice(GIVEN, (f"{config.components} directions from {given}",))
        width = _widened(config.components + RANDOM_DIRECTIONS, config.components + RANDOM_DIRECTIONS)
    elif choice.name == "covariance":
        width = _widened(config.components + covariance.SUBSPACE, n_columns)
    elif choice.name == "incremental":
        width = _widened(incremental.capacity(n_columns, config.components), n_columns)
    reads = {"krylov": min(_RESERVED_READS, config.max_reads), GIVEN: 1}.get(choice.name, 2) + (config.scale != "none")
    panel_rows = panel_rows_for(n_columns)
    sample = min(SAMPLE_ROWS, store.n_rows)
    while sample > _LEAST_SAMPLE and not _fits(store, config, choice.name, n_columns, width, panel_rows, sample):
        sample = max(_LEAST_SAMPLE, sample // 2)
    held = _memory(store, config, choice.name, n_columns, width, panel_rows, sample)
    if held is None:
        raise _too_small(store, config, choice.name, n_columns, width, panel_rows, sample)
    cached = min(1.0, held.cache / max(store.nbytes, 1))
    from_store = store.nbytes * (1 + (reads - 1) * (1 - cached))
    return Plan(
        solver=choice.name,
        reasons=choice.reasons,
        device=device,
        device_reason=device_reason,
        road="plain files" if store.plain_chunks() is not None else f"zarr ({store.pipeline})",
        n_rows=store.n_rows,
        n_columns=n_columns,
        block_size=width,
        panel_rows=panel_rows,
        sample_rows=sample,
        reads=reads,
        bytes_to_read=int(from_store),
        memory=held,
    )


def panel_rows_for(n_columns: int) -> int:
    """Rows a panel: a power of two between 64 and 4,096 that fills PANEL_BYTES."""
    rows = 64
    while rows < 4096 and 2 * rows * n_columns * 4 <= PANEL_BYTES:
        rows *= 2
    return rows


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


def _fits(store: Store, config: DiscoverConfig, solver: str, d: int, width: int, panel_rows: int, sample: int) -> bool:
    """Whether a sample of that size fits; the same answer in a process that holds other things too."""
    parts = _parts(store, config, solver, d, width, panel_rows, sample)
    parts["interpreter"] = _TYPICAL_INTERPRETER + _LIBRARIES
    return sum(parts.values()) <= memory.budget(config.memory)


def _memory(
    store: Store, config: DiscoverConfig, solver: str, d: int, width: int, panel_rows: int, sample: int
) -> MemoryPlan | None:
    budget = memory.budget(config.memory)
    parts = _parts(store, config, solver, d, width, panel_rows, sample)
    left = budget - sum(parts.values())
    if left < 0:
        return None
    projections = store.n_rows * (width - 1) * 4 * (1 if solver != "krylov" else min(_RESERVED_READS, config.max_reads))
    spilled = projections > left // 2
    left -= 0 if spilled else projections
    unit_bytes = unit_rows(store) * store.n_features * store.itemsize
    n_units = -(-store.n_rows // unit_rows(store))
    # Plain files are in the page cache already; a copy of ours would cost more (fresh pages) than it saves in three
    # reads.
    cache = 0 if store.plain_chunks() is not None else min(n_units, max(left, 0) // unit_bytes) * unit_bytes
    return MemoryPlan(budget=budget, projections=projections, cache=cache, spilled=spilled, **parts)


def _parts(
    store: Store, config: DiscoverConfig, solver: str, d: int, width: int, panel_rows: int, sample: int
) -> dict[str, int]:
    unit_bytes = unit_rows(store) * store.n_features * store.itemsize
    blocks = 1 if solver != "krylov" else min(_RESERVED_READS, config.max_reads)
    # Bases in float32; products, sums and what orthonormalises them in float64.
    basis = d * width * (12 * blocks + 48)
    if solver == "covariance":
        basis += 5 * d * d * 8
    elif solver == "incremental":
        basis += 4 * (incremental.BATCH_ROWS + width) * d * 4
    wide = 8 if store.dtype == "float64" else 0
    lists = (config.components + RANDOM_DIRECTIONS) * (BLOCK_ROWS * 8 * 8 + 4 * max(config.pool, config.top) * 64)
    return {
        "interpreter": memory.resident() + _LIBRARIES,
        "buffers": SLOTS * unit_bytes,
        "panel": panel_rows * d * (4 + wide + store.itemsize),
        "basis": basis,
        "sample": sample * (d if d == store.n_features else d + store.n_features) * store.itemsize,
        "rows": store.n_rows * 9 + 3 * BLOCK_ROWS * blocks * width * 8 + lists,
    }


def _too_small(
    store: Store, config: DiscoverConfig, solver: str, d: int, width: int, panel_rows: int, sample: int
) -> UsageError:
    parts = _parts(store, config, solver, d, width, panel_rows, sample)
    needed = sum(parts.values())
    largest = max(parts, key=lambda name: parts[name])
    hint = f"type --memory {(needed >> 20) + 1}MiB or more"
    if largest == "buffers":
        hint += ", or ingest the store again with smaller chunks"
    return UsageError(
        f"--memory {memory.show(memory.budget(config.memory))}: this job needs {memory.show(needed)} "
        f"({largest}: {memory.show(parts[largest])}); {hint}"
    )
