"""How much memory a process may hold, and how much it holds.

All figures in bytes. A memory map counts as resident, so nothing here maps files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from skillaxes.errors import UsageError

LEAST = 512 << 20
SHARE = 0.6  # of what is granted: the rest is for the page cache and for neighbours

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST_MMAP_THRESHOLD = 32 << 20  # that glibc takes

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
    """What this machine grants the process: the tightest of its cgroups, else the machine's memory."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [limit for file in _cgroup_files() if (limit := _read_limit(file)) is not None]
    return min(limits)


def budget(requested: int | None, processes_here: int = 1) -> int:
    """The bytes one process may hold, interpreter included.

    Parameters
    ----------
    requested : what the user asked for; None for a fair share of what is granted
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
    """Bytes resident now."""
    return _status_field("VmRSS")


def peak() -> int:
    """The most bytes that were resident at once since the process began."""
    return _status_field("VmHWM")


def show(size: float) -> str:
    """A size for people, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _cgroup_files() -> list[Path]:
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
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def _status_field(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":")), 0)


@contextlib.contextmanager
def freed_is_kept() -> Iterator[None]:
    """Within it glibc keeps what is freed for what is allocated next.

    Otherwise it gives megabytes back and faults them in again, page by page, a hundred times a job. The most that is
    held at once stays what it was, and what is free in the end is given back.
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
