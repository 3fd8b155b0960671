"""Memory budget and memory use of a process, in bytes.

Resident memory includes the pages of mapped files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from skillaxes.errors import UsageError

LEAST = 512 << 20  # the smallest budget
SHARE = 0.6  # of the granted memory; the rest is for the page cache and other processes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST_MMAP_THRESHOLD = 32 << 20  # the largest that glibc accepts
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}


def parse_size(text: str) -> int:
    """``"2GiB"``, ``"512MiB"``, ``"2G"`` or plain bytes, as bytes.

    Raises
    ------
    UsageError : not a size
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    if match is None:
        raise UsageError(f"{text!r} is not a size: type bytes, or a number with a unit such as 2GiB or 512MiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def granted() -> int:
    """Bytes granted to this process: the smallest limit of its cgroups, at most the memory of the machine."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [limit for file in _cgroup_files() if (limit := _read_limit(file)) is not None]
    return min(limits)


def budget(requested: int | None, processes_here: int = 1) -> int:
    """Bytes that one process may hold, interpreter included.

    Parameters
    ----------
    requested : the value of ``--memory``; None for a fair share of the granted memory
    processes_here : processes of this job on this host

    Raises
    ------
    UsageError : less than 512 MiB
    """
    if requested is None:
        return max(LEAST, int(SHARE * granted() / processes_here))
    if requested < LEAST:
        raise UsageError(f"--memory {show(requested)}: the interpreter and one panel need at least 512MiB")
    return requested


def resident() -> int:
    """Resident bytes now."""
    return _status_field("VmRSS")


def peak() -> int:
    """The largest number of resident bytes since the start of the process."""
    return _status_field("VmHWM")


def show(size: float) -> str:
    """A size as text in binary units: ``"1.5 GiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


@contextlib.contextmanager
def freed_is_kept() -> Iterator[None]:
    """A context in which glibc reuses freed memory instead of returning it to the system.

    By default it returns megabytes and faults them in again, page by page, a hundred times a job. The peak does not
    change, and free memory is returned at the end of the context.
    """
    import ctypes

    try:
        libc = ctypes.CDLL(None)
        adjust, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # another C library
        yield
        return
    adjust(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
    adjust(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:
        adjust(_M_TRIM_THRESHOLD, 2 * _MOST_MMAP_THRESHOLD)
        trim(0)


def _cgroup_files() -> list[Path]:
    """Files with the memory limits of the cgroups of this process and of their parents, of versions 1 and 2."""
    root = Path("/sys/fs/cgroup")
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return files
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root if controllers == "" else root / "memory"
        name = "memory.max" if controllers == "" else "memory.limit_in_bytes"
        if controllers in ("", "memory"):
            here = base / path.lstrip("/")
            files += [folder / name for folder in (here, *here.parents) if base in (folder, *folder.parents)]
    return files


def _read_limit(file: Path) -> int | None:
    """The limit in a file of a cgroup; None without one."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def _status_field(name: str) -> int:
    """A field of ``/proc/self/status`` in bytes; the peak where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":")), 0)
