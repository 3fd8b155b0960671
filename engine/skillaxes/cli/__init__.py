"""The command ``skillaxes``. Every command calls one function that Python users call too."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import traceback
from typing import NoReturn

_NEW_OBJECTS = 100_000  # before the collector looks at them: importing torch makes far more, all of them to stay


def main(arguments: list[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit code."""
    from skillaxes.cli.app import run

    return run(arguments)


def entry() -> NoReturn:
    """Run the process's own command line and end the process with its exit code.

    At its end the interpreter takes 0.2 s to destroy torch's objects one by one. The process does everything else that
    the interpreter does then: it waits for threads, calls exit handlers, and writes out what is buffered.
    """
    gc.set_threshold(_NEW_OBJECTS)
    code = 1
    try:
        code = main()
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else int(request.code is not None)
        if isinstance(request.code, str):
            print(request.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]  # thread pools end in it, and a thread may be at work
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # its reader has gone
            code = code or 1
    os._exit(code)
