"""What a job holds in memory, here and on a GPU, before it does anything.

Everything here follows from shape, dtype, options and budget.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillaxes import memory
from skillaxes.config import DiscoverConfig
from skillaxes.errors import UsageError
from skillaxes.pca import incremental
from skillaxes.pca.projections import BLOCK_ROWS
from skillaxes.stream.device_feed import LAG, LOOK_AHEAD
from skillaxes.stream.reader import SLOTS
from skillaxes.stream.sample import SEGMENT
from skillaxes.stream.units import can_share, unit_rows

if TYPE_CHECKING:
    from skillaxes.store import Store

RESERVED_READS = 3  # reads whose blocks and projections are planned for
RANDOM_DIRECTIONS = 20  # ranked beside the components, as a baseline for labels
MOST_WORKERS = 8
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
class Demand:
    """What the memory of a job follows from.

    Attributes
    ----------
    solver : which one runs
    n_columns, width : columns in use, and of a block of the basis
    panel_rows, sample_rows : rows of a panel and of the warm start
    on_gpu : the arithmetic is done on a GPU
    converts : panels are written out in float32
    n_rows : rows of this process; all of the store where it is alone
    size, here : processes of the job, and of those on this host
    """

    store: Store
    config: DiscoverConfig
    solver: str
    n_columns: int
    width: int
    panel_rows: int
    sample_rows: int
    on_gpu: bool
    n_rows: int
    size: int = 1
    here: int = 1
    converts: bool = True

    @property
    def budget(self) -> int:
        """Bytes that this process may hold."""
        return memory.budget(self.config.memory, self.here)

    @property
    def sampled(self) -> int:
        """Rows of the warm start that this process may have: its share and a segment."""
        return min(self.sample_rows, self.n_rows, -(-self.sample_rows // self.size) + (SEGMENT if self.size > 1 else 0))

    @property
    def unit_bytes(self) -> int:
        """Bytes that are fetched at once."""
        return unit_rows(self.store) * self.store.n_features * self.store.itemsize

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
        projections = self.n_rows * (self.width - 1) * 4 * self._blocks
        # A file costs little more than memory does, and memory that does not grow with the rows is worth it.
        spilled = projections > min(left // 2, budget // _KEPT_SHARE)
        left -= 0 if spilled else projections
        n_units = -(-self.n_rows // unit_rows(self.store)) - kept_rows // unit_rows(self.store)
        # Plain files are in the page cache already; a copy of ours would cost more (fresh pages) than it saves in three
        # reads.
        plain = self.store.plain_chunks() is not None
        cache = 0 if plain else min(n_units, max(left, 0) // self.unit_bytes) * self.unit_bytes
        return MemoryPlan(budget=budget, projections=projections, cache=cache, spilled=spilled, **parts)

    def on_device(self) -> int:
        """GPU memory of the solver: bases and sums, the sample, and panels in float32 (float64 where the store is)."""
        temporaries = self.panel_rows * self.n_columns * (3 * 4 + self._wide)
        return self._basis() + self.sampled * self.n_columns * self.store.itemsize + temporaries

    @property
    def _blocks(self) -> int:
        return 1 if self.solver != "krylov" else min(RESERVED_READS, self.config.max_reads)

    @property
    def _wide(self) -> int:
        return 8 if self.store.dtype == "float64" else 0

    def _basis(self) -> int:
        """Bases in float32; products, sums and what orthonormalises them in float64."""
        d = self.n_columns
        basis = d * self.width * (12 * self._blocks + 48)
        if self.solver == "covariance":
            basis += 5 * d * d * 8
        elif self.solver == "incremental":
            basis += 4 * (incremental.BATCH_ROWS + self.width) * d * 4
        return basis

    def _parts(self) -> dict[str, int]:
        store, config, d = self.store, self.config, self.n_columns
        entry = 4 * self.converts + self._wide + store.itemsize
        buffers, panel = SLOTS * self.unit_bytes, self.panel_rows * d * entry
        basis = self._basis()
        if self.on_gpu:
            # torch takes page-locked memory in powers of two. What comes back in the end are the directions.
            buffers = (SLOTS + LAG + self.workers - 1) * _power_of_two(self.unit_bytes)
            staging = (LOOK_AHEAD + 1) * _power_of_two(self.panel_rows * d * store.itemsize)
            panel = 0 if d == store.n_features else staging
            basis = 2 * d * self.width * 8
        lists = (config.components + RANDOM_DIRECTIONS) * (BLOCK_ROWS * 8 * 8 + 4 * max(config.pool, config.top) * 64)
        return {
            "interpreter": memory.resident() + _LIBRARIES,
            "buffers": buffers,
            "panel": panel,
            "basis": basis,
            "sample": self.sampled * (d if d == store.n_features else d + store.n_features) * store.itemsize,
            "rows": self.n_rows * 9 + 3 * BLOCK_ROWS * self._blocks * self.width * 8 + lists,
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
