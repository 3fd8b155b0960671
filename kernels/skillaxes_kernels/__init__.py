"""The arithmetic that touches every row: centred projections with row norms, their transpose product, top-k lists.

=====================  =================================================================================
``select_backend``     the implementation for a kind of panels, with the reasons; naming one forbids every other
``round_directions``   a block that ``project`` multiplies at full speed on a kind of device
``prepare``            a block of directions as a backend reads it, with its buffers: once for many panels
``project``            dots of a panel's centred rows with a block of directions, and squared row norms
``accumulate``         ``z += y^T @ weights`` for the rows that ``project`` saw
``group_sq_norms``     squared norms of those rows by groups of columns
``column_sums``        sums of the rows themselves
``TopK``               top-k lists of both sides, built block by block, merged in any order
``reference``          the definition of all this, in float64
=====================  =================================================================================

Importing this package imports nothing heavy and probes no device; a name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers
    from skillaxes_kernels import reference
    from skillaxes_kernels.api import (  # noqa: F401
        BackendChoice,
        BackendError,
        accumulate,
        column_sums,
        group_sq_norms,
        prepare,
        project,
        round_directions,
        select_backend,
    )
    from skillaxes_kernels.topk import TopK, TopKList, TopKLists  # noqa: F401
    from skillaxes_kernels.types import PanelSpec, Prepared, Projection  # noqa: F401

_NAMES = {
    "api": "BackendChoice BackendError accumulate column_sums group_sq_norms prepare project round_directions "
    "select_backend",
    "topk": "TopK TopKList TopKLists",
    "types": "PanelSpec Prepared Projection",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = ["reference", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "reference":
        return import_module("skillaxes_kernels.reference")
    if name in _HOME:
        return getattr(import_module(f"skillaxes_kernels.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
