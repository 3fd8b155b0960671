"""``skillaxes`` in which process ``VICTIM`` hangs in phase ``PHASE``, after it has written its id into ``MARK``.

``SILENCE``: seconds without a beat after which the others take it for dead; as shipped where it is not set.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skillaxes.cli import main
from skillaxes.cluster import heartbeat

VICTIM, PHASE = int(os.environ["VICTIM"]), os.environ["PHASE"]
ME = int(sys.argv[sys.argv.index("--process-index") + 1])


def stall() -> None:
    """Write the process id and hang until the test kills this process."""
    aside = Path(os.environ["MARK"] + ".partial")
    aside.write_text(str(os.getpid()))
    aside.rename(os.environ["MARK"])
    time.sleep(1000)


def before(owner: Any, name: str) -> None:
    """Stall at the call of ``owner.name``."""
    real: Callable[..., Any] = getattr(owner, name)

    def stalled(*given: Any, **more: Any) -> Any:
        stall()
        return real(*given, **more)

    setattr(owner, name, stalled)


def plant() -> None:
    """Install the stall in the phase."""
    from skillaxes.pca import krylov
    from skillaxes.pca.row_scores import RowScores
    from skillaxes.run import driver
    from skillaxes.stream.panels import PanelStream

    if PHASE == "sample":
        before(PanelStream, "sample_views")
    elif PHASE == "read":
        before(krylov.KrylovRead, "update")
    elif PHASE == "collective":
        import torch.distributed as dist

        real = dist.all_reduce
        calls = iter(range(1 << 30))

        def late(*given: Any, **more: Any) -> Any:
            if next(calls) == 12:
                stall()
            return real(*given, **more)

        dist.all_reduce = late  # type: ignore[assignment]
    elif PHASE == "directions":
        before(krylov, "finalize")
    elif PHASE == "ranking":
        before(RowScores, "blocks")
    elif PHASE == "writing":
        before(driver, "write")


if __name__ == "__main__":
    if "SILENCE" in os.environ:
        heartbeat.SILENCE = float(os.environ["SILENCE"])
    if ME == VICTIM:
        plant()
    sys.argv[0] = "skillaxes"
    sys.exit(main())
