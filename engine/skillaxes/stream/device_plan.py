"""What a job holds on a GPU: panels for the cache, rows that stay, and what is left for the arithmetic.

The size of a panel follows from the card and the matrix alone, so that how much memory happens to be free changes no
bit of a result; only how many rows stay follows from free memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from skillaxes.stream.device import Seam
from skillaxes.stream.device_feed import LOOK_AHEAD

LEAST_PANEL_ROWS, MOST_PANEL_ROWS = 64, 16384
_STEP = 128  # rows that a tile of the kernels takes at most
_RESERVE_SHARE, _LEAST_RESERVE = 0.05, 512 << 20  # for the libraries' workspaces, and what fragmentation takes


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the GPU, by purpose.

    Attributes
    ----------
    total, free : the card's memory, and what was free when the job was planned
    reserve : left alone
    working : bases, products, sums and temporaries of the solver
    ring : panels on their way
    kept : rows that stay between reads, ``kept_rows`` of them
    l2 : the cache that panels are sized for
    """

    total: int
    free: int
    reserve: int
    working: int
    ring: int
    kept: int
    kept_rows: int
    l2: int


def panel_rows_for(row_bytes: int, l2_bytes: int) -> int:
    """Rows a panel: half of the L2, so that the second product finds there what the first one read."""
    rows = l2_bytes // 2 // row_bytes
    if rows < _STEP:
        return LEAST_PANEL_ROWS
    return min(rows // _STEP * _STEP, MOST_PANEL_ROWS)


def plan_device(seam: Seam, *, n_rows: int, panel_rows: int, row_bytes: int, working: int) -> DeviceMemory:
    """How the device's memory is shared out; ``row_bytes`` counts the columns in use."""
    total, free = seam.total_bytes(), seam.free_bytes()
    reserve = min(max(int(_RESERVE_SHARE * total), _LEAST_RESERVE), total // 4)
    panel_bytes = panel_rows * row_bytes
    ring = (LOOK_AHEAD + 1) * panel_bytes
    panels = min(max(free - reserve - working - ring, 0) // panel_bytes, -(-n_rows // panel_rows))
    return DeviceMemory(
        total=total,
        free=free,
        reserve=reserve,
        working=working,
        ring=ring,
        kept=panels * panel_bytes,
        kept_rows=min(panels * panel_rows, n_rows),
        l2=seam.l2_bytes(),
    )
