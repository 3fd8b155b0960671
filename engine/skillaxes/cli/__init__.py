"""The command ``skillaxes``. Every command calls one function that Python users call too."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn


def main(arguments: list[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit code."""
    from skillaxes.cli.app import run

    return run(arguments)


def entry() -> NoReturn:
    """Run the process's own command line and end the process with its exit code."""
    code = main()
    # The interpreter collects garbage once more as it ends; walking through all of torch's objects takes it 0.4 s.
    gc.freeze()
    sys.exit(code)
