"""The arithmetic that touches every row: centred projections with row norms, their transpose product, top-k lists.

Importing this package imports nothing heavy and probes no device; a name is loaded when it is first used.

=====================  =================================================================================
``project``            dots of a panel's centred rows with a block of directions, and squared row norms
``accumulate``         ``z += y^T @ weights`` for the rows that ``project`` saw
``group_sq_norms``     squared norms of those rows by groups of columns
``column_sums``        sums of the rows themselves
``make_scratch``       the buffers of one panel, allocated once
``round_directions``   a block that ``project`` multiplies at full speed on a kind of device
``TopK``               top-k lists of both sides, built block by block, merged in any order
``which``              what would run and why; naming a backend forbids every other one
``reference``          the definition of all this, in float64
=====================  =================================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillaxes_kernels import reference as reference
    from skillaxes_kernels.api import accumulate, column_sums, group_sq_norms, make_scratch, project
    from skillaxes_kernels.dispatch import BackendError, Choice, which
    from skillaxes_kernels.rounding import round_directions
    from skillaxes_kernels.topk import TopK, TopKList, TopKLists
    from skillaxes_kernels.types import Projection, Scratch

_HOME = {
    "accumulate": "api",
    "column_sums": "api",
    "group_sq_norms": "api",
    "make_scratch": "api",
    "project": "api",
    "BackendError": "dispatch",
    "Choice": "dispatch",
    "which": "dispatch",
    "round_directions": "rounding",
    "TopK": "topk",
    "TopKList": "topk",
    "TopKLists": "topk",
    "Projection": "types",
    "Scratch": "types",
}

__all__ = [
    "BackendError",
    "Choice",
    "Projection",
    "Scratch",
    "TopK",
    "TopKList",
    "TopKLists",
    "accumulate",
    "column_sums",
    "group_sq_norms",
    "make_scratch",
    "project",
    "reference",
    "round_directions",
    "which",
]


def __getattr__(name: str) -> Any:
    if name == "reference":
        return import_module("skillaxes_kernels.reference")
    if name in _HOME:
        return getattr(import_module(f"skillaxes_kernels.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
