"""skillaxes: named principal directions of activation matrices that are larger than memory.

::

    import skillaxes

    found = skillaxes.discover("activations.zarr", "run", components=10)
    found.directions.components      # (10, n_features), unit rows
    found.topk                       # the rows at both ends of every direction

Importing this package imports nothing heavy: each name is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillaxes.api import apply, discover, plan
    from skillaxes.config import DiscoverConfig
    from skillaxes.errors import SkillaxesError
    from skillaxes.estimator import StreamingPCA
    from skillaxes.run_folder.contents import Discovery, load
    from skillaxes.store import Store, create_store, open_store, open_writer

_HOME = {
    "apply": "api",
    "DiscoverConfig": "config",
    "Discovery": "run_folder.contents",
    "discover": "api",
    "load": "run_folder.contents",
    "plan": "api",
    "SkillaxesError": "errors",
    "StreamingPCA": "estimator",
    "Store": "store",
    "create_store": "store",
    "open_store": "store",
    "open_writer": "store",
}

__all__ = [
    "DiscoverConfig",
    "Discovery",
    "SkillaxesError",
    "Store",
    "StreamingPCA",
    "apply",
    "create_store",
    "discover",
    "load",
    "open_store",
    "open_writer",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("skillaxes")
    if name in _HOME:
        value = getattr(import_module(f"skillaxes.{_HOME[name]}"), name)
        globals()[name] = value  # a submodule of the same name must not hide the function
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
