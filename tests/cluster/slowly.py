"""``skillaxes`` with small panels and a pause after each, so that signals reach a job at work on a fast machine too.

``PAUSE``: seconds a panel, at the first start of a job only; for all processes, or one each as ``0,1``. ``MARKS``: a
folder in which every process keeps a file, by its number, with its process id, how many panels it has handed out, and
how often the job had been started again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from pathlib import Path

from skillaxes.cli import main
from skillaxes.run import plan as planning
from skillaxes.stream.panel import Panel
from skillaxes.stream.panels import PanelStream

PANEL_ROWS = 64
_read = PanelStream.read
_panels = 0


def _index() -> str:
    """The index of this process in the flags."""
    return sys.argv[sys.argv.index("--process-index") + 1] if "--process-index" in sys.argv else "0"


def _slow_read(self: PanelStream, from_row: int | None = None) -> Generator[Panel, None, None]:
    global _panels
    restarts = os.environ.get("SLURM_RESTART_COUNT", os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", _index()))
    for panel in _read(self, from_row):
        yield panel
        _panels += 1
        if folder := os.environ.get("MARKS"):
            aside = Path(folder, f".{rank}")
            aside.write_text(f"{os.getpid()} {_panels} {restarts}")
            aside.rename(Path(folder, rank))
        if restarts == "0":
            pauses = os.environ.get("PAUSE", "0").split(",")
            time.sleep(float(pauses[int(rank) % len(pauses)]))


planning.panel_rows_for = lambda row_bytes, roomy=True: PANEL_ROWS
PanelStream.read = _slow_read  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.argv[0] = "skillaxes"
    sys.exit(main())
