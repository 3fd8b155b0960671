"""Examination of this machine: hardware, software, and the read paths and kernels of a job here.

On a GPU one small kernel is compiled and launched, as at the start of a job: only that shows that Triton works there.
Nothing else is allocated on it, and no file is written but in Triton's cache.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

MACHINE = "machine"
SOFTWARE = "software"
READ_PATH = "read path"


@dataclass(frozen=True)
class Finding:
    """One result of the examination.

    Attributes
    ----------
    group : ``"machine"``, ``"software"`` or ``"read path"``
    name : name of the examined thing
    ok : whether it can be used, or for a read path whether it would be taken; None for neither
    value : one line
    """

    group: str
    name: str
    ok: bool | None
    value: str


def examine(scratch: Path | None = None) -> list[Finding]:
    """Examine this machine, from hardware to read paths.

    Parameters
    ----------
    scratch : folder for projections on disk; None for the default
    """
    return [*_machine(scratch), *_software(), *_read_paths()]


def _machine(scratch: Path | None) -> Iterator[Finding]:
    from skillaxes.files import default_scratch
    from skillaxes.memory import budget, granted, show

    yield Finding(MACHINE, "system", None, f"{platform.system()} {platform.release()}, {platform.machine()}")
    cores, quota = _cores(), _cpu_quota()
    granted_cores = f", of which the cgroup grants {quota:g}" if quota is not None and quota < cores else ""
    yield Finding(MACHINE, "CPU cores", None, f"{cores}{granted_cores}")
    yield Finding(MACHINE, "memory", None, f"{show(granted())} granted; --memory auto takes {show(budget(None))} of it")
    yield _scratch(scratch or default_scratch())
    yield _gpu()


def _scratch(folder: Path) -> Finding:
    from skillaxes.memory import show

    name = "scratch"
    if not folder.is_dir():
        return Finding(MACHINE, name, False, f"{folder} does not exist; --scratch names another folder")
    if not os.access(folder, os.W_OK):
        return Finding(MACHINE, name, False, f"{folder} cannot be written to; --scratch names another folder")
    return Finding(MACHINE, name, True, f"{show(shutil.disk_usage(folder).free)} free in {folder}")


def _gpu() -> Finding:
    from skillaxes.devices import driver_version, missing_for_cuda

    missing = missing_for_cuda()
    if missing:
        return Finding(MACHINE, "GPU", False, missing)
    import torch

    from skillaxes.memory import show

    cards = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        cards.append(f"{card.name}, sm_{card.major}{card.minor}, {show(card.total_memory)}")
    driver = driver_version()
    return Finding(MACHINE, "GPU", True, "; ".join(cards) + (f"; driver {driver}" if driver else ""))


def _software() -> Iterator[Finding]:
    import torch

    yield Finding(SOFTWARE, "Python", None, f"{platform.python_version()} ({sys.executable})")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    threads = torch.get_num_threads()
    in_threads = f"{threads} thread{'s' if threads > 1 else ''}"
    yield Finding(SOFTWARE, "torch", True, f"{torch.__version__}, {build}, {in_threads}")
    yield _triton()
    yield _optional("cupy", ("cupy-cuda13x", "cupy-cuda12x", "cupy"), "pip install 'skillaxes[cuda]'")
    yield _optional("kvikio", ("kvikio-cu13", "kvikio-cu12", "kvikio"), "pip install kvikio-cu13")
    yield _zarr()


def _triton() -> Finding:
    from skillaxes_kernels.backends.triton import c_compiler

    version = _version("triton")
    if version is None:
        return Finding(SOFTWARE, "triton", False, "not installed; a CUDA build of torch brings it")
    compiler = c_compiler()
    if compiler is None:
        lacking = f"{version}, but no C compiler to launch kernels with (gcc or clang, or what $CC names)"
        return Finding(SOFTWARE, "triton", False, lacking)
    return Finding(SOFTWARE, "triton", True, f"{version}, C compiler {compiler}")


def _optional(module: str, distributions: tuple[str, ...], remedy: str) -> Finding:
    if find_spec(module) is None:
        return Finding(SOFTWARE, module, False, f"not installed; optional, for a GPU: {remedy}")
    version = next((found for name in distributions if (found := _version(name))), "unknown version")
    return Finding(SOFTWARE, module, True, version)


def _zarr() -> Finding:
    fast = _version("zarrs")
    pipeline = (
        f"zarrs {fast} decodes" if fast else "zarr's own pipeline decodes; pip install zarrs is 2 to 3 times faster"
    )
    return Finding(SOFTWARE, "zarr", fast is not None, f"{_version('zarr')}, {pipeline}")


def _read_paths() -> Iterator[Finding]:
    from skillaxes.devices import missing_for_cuda

    yield _compiled_products()
    missing = "no usable GPU, see above" if missing_for_cuda() else None
    yield _fused_kernel(missing)
    yield from _gpudirect(missing)
    if missing:
        yield Finding(READ_PATH, "pinned staging", False, f"the panels stay on the CPU: {missing}")
    else:
        yield Finding(
            READ_PATH,
            "pinned staging",
            True,
            "rows go through page-locked memory, copied while the GPU computes; what fits its memory is copied once",
        )


def _gpudirect(missing: str | None) -> Iterator[Finding]:
    """The two parts of the read path past host memory: chunks in CuPy arrays, and GPUDirect Storage."""
    from skillaxes.stream import gds

    cupy = missing or gds.missing_package("cupy")
    decodes = "zarr decodes into CuPy arrays, wherever GPUDirect brings the chunks"
    yield Finding(READ_PATH, "CuPy read", cupy is None, cupy or decodes)
    direct = missing or gds.missing()
    taken = "taken for uncompressed chunks without checksums in local files; --no-gds forbids it"
    yield Finding(READ_PATH, "GPUDirect", direct is None, direct or taken)


def _compiled_products() -> Finding:
    import torch

    from skillaxes_kernels import BackendError, PanelSpec, select_backend

    try:
        choice = select_backend(PanelSpec(0, 4096, torch.float16, torch.device("cpu")))
    except BackendError as error:
        return Finding(READ_PATH, "compiled", False, str(error))
    fast = not choice.converts
    reasons = "; ".join(choice.reasons[1:])
    value = f"{choice.name} multiplies panels on the CPU" if fast else "plain torch multiplies panels on the CPU"
    return Finding(READ_PATH, "compiled", fast, f"{value}; {reasons}" if reasons else value)


def _fused_kernel(missing: str | None) -> Finding:
    name = "fused kernel"
    if missing:
        return Finding(READ_PATH, name, False, missing)
    import torch

    from skillaxes_kernels import PanelSpec, select_backend

    choice = select_backend(PanelSpec(0, 4096, torch.float16, torch.device("cuda")))
    return Finding(READ_PATH, name, not choice.converts, "; ".join(choice.reasons))


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _cpu_quota() -> float | None:
    """Cores granted by the cgroup (version 2); None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
