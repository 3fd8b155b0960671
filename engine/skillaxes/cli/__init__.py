"""The command ``skillaxes``. Wiring only: every command calls one function that Python users call too."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import traceback
from typing import NoReturn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_MMAP_THRESHOLD = 32 << 20  # that glibc takes
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
    _keep_memory()
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


def _keep_memory() -> None:
    """Have glibc keep what is freed for what is allocated next, where it would give megabytes back and fault them in
    again, page by page, a hundred times a job. The most that is held at once stays what it was.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
