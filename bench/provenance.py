"""The origin of a figure: commit, versions, machine. Imports nothing heavy and runs no kernel."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# Libraries that a figure may depend on; those that are not installed are left out.
DISTRIBUTIONS = ("torch", "numpy", "zarr", "zarrs", "triton", "scikit-learn", "dask", "faiss-cpu")


def commit() -> dict[str, Any]:
    """The checkout's commit, and whether its files differ from it. ``unknown`` outside of a repository."""
    head = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    # Results are appended by the run itself, so they alone do not make a checkout dirty.
    changes = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!bench/results")
    return {"commit": head or "unknown", "dirty": bool(changes)}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries behind the figures."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Models of CPU and GPU, cores granted to this process, memory in bytes."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_bytes": memory()["MemTotal"],
        "gpu": gpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_model() -> str:
    """The CPU's name with family, model and stepping, since virtual machines hide the marketing name."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    name = fields.get("model name", platform.machine())
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model')}, stepping {fields.get('stepping')})"
    flags = set(fields.get("flags", "").split())
    wide = [label for flag, label in _UNITS if flag in flags]
    return f"{name}, {', '.join(wide)}" if wide else name


# Units that change which product is fast, as /proc/cpuinfo calls them.
_UNITS = (
    ("avx2", "AVX2"),
    ("avx512f", "AVX-512"),
    ("avx512_bf16", "BF16"),
    ("avx512_fp16", "FP16"),
    ("amx_bf16", "AMX"),
)


def gpu_model() -> str | None:
    """The first GPU's name; None without a GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines()[0] if names else None


def cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> dict[str, int]:
    """``MemTotal`` and ``MemAvailable`` of /proc/meminfo in bytes, at most the limit of the cgroup."""
    figures = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        figures[name] = int(value.split()[0]) * (1024 if value.endswith("kB") else 1)
    limit = _cgroup_limit()
    if limit is not None:
        figures["MemTotal"] = min(figures["MemTotal"], limit)
        figures["MemAvailable"] = min(figures["MemAvailable"], limit)
    return {name: figures[name] for name in ("MemTotal", "MemAvailable")}


def _cgroup_limit() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None


def command(arguments: list[str], hidden: dict[str, str] | None = None) -> str:
    """A command line for the results; short names stand for the interpreter and for this machine's folders."""
    text = " ".join(arguments)
    for folder, name in {**(hidden or {}), sys.executable: "python", str(ROOT): "."}.items():
        text = text.replace(folder, name)
    return text


def _output(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
