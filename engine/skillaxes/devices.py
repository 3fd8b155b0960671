"""Choice of the device, with its reason.

A named device is taken or refused. ``auto`` takes a GPU if torch can use one.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from skillaxes.errors import DeviceError

if TYPE_CHECKING:
    import torch

NAMES = ("auto", "cpu", "cuda")
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")


class Resolved(NamedTuple):
    """A device and the reason for it, a phrase such as ``"no NVIDIA driver"``."""

    device: torch.device
    reason: str


def resolve(name: str = "auto", *, local_rank: int = 0) -> Resolved:
    """The device named ``name``.

    Parameters
    ----------
    name : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``
    local_rank : rank of this process on its host; ``auto`` and ``cuda`` take GPU ``local_rank`` modulo the number of
        visible GPUs

    Raises
    ------
    DeviceError : an unknown name, or a GPU that cannot be used
    """
    import torch

    kind, _, index = name.partition(":")
    if kind not in NAMES or (index and (kind != "cuda" or not index.isdigit())):
        raise DeviceError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return Resolved(torch.device("cpu"), "asked for")
    missing = missing_for_cuda()
    if kind == "auto":
        if missing:
            return Resolved(torch.device("cpu"), missing if driver_version() else "no NVIDIA driver")
        gpu = local_rank % torch.cuda.device_count()
        return Resolved(torch.device("cuda", gpu), torch.cuda.get_device_name(gpu))
    if missing:
        raise DeviceError(f"--device {name}: {missing}; use --device cpu, or auto to take what there is")
    count = torch.cuda.device_count()
    gpu = int(index) if index else local_rank % count
    if gpu >= count:
        raise DeviceError(f"--device {name}: the visible GPUs are cuda:0 to cuda:{count - 1}; use one of them")
    return Resolved(torch.device("cuda", gpu), torch.cuda.get_device_name(gpu))


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a store's dtype: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``."""
    import torch

    return {
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
        "float32": torch.float32,
        "float64": torch.float64,
    }[name]


def missing_for_cuda() -> str | None:
    """The reason why torch cannot use a GPU here, as one phrase; None if it can."""
    import torch

    if getattr(torch.version, "hip", None) is not None:  # an AMD build calls its devices "cuda" too
        return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no AMD GPU"
    driver = driver_version()
    lacks = []
    if torch.version.cuda is None:
        lacks.append(f"torch {torch.__version__} is not a CUDA build")
    if driver is None:
        lacks.append("no NVIDIA driver is loaded (libcuda.so.1)")
    if lacks:
        return " and ".join(lacks)
    if torch.cuda.is_available():
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and torch.cuda.device_count() == 0:
        return f"no GPU is visible (CUDA_VISIBLE_DEVICES={visible!r})"
    return (
        f"the NVIDIA driver ({driver}) and torch's CUDA {torch.version.cuda} do not work together, or there is no GPU"
    )


def driver_version() -> str | None:
    """The version of the NVIDIA driver; ``"unknown"`` for a loaded driver without a version, None without a driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    try:
        # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Tue Jan ..."
        words = _DRIVER_VERSION.read_text().split("\n", 1)[0].split()
    except OSError:
        return "unknown"
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
