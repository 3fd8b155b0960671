"""The command ``skillaxes``. Wiring only: every command calls one function that Python users call too."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import traceback
from typing import NoReturn

_NEW_OBJECTS = 100_000  # before the collector looks at them: importing torch makes far more, all of them to stay


def main(arguments: list[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit code."""
    from skillaxes.cli.app import run

    return run(arguments)


def entry() -> NoReturn:
    """Run the process's own command line and end the process.

    Without the interpreter's way down, which takes torch 0.3 s to find that there is nothing left to do: by then every
    file is closed and every thread of ours has ended.
    """
    gc.set_threshold(_NEW_OBJECTS)
    code = 1
    try:
        code = main()
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else int(request.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
