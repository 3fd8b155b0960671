"""skillaxes: named principal directions of activation matrices that are larger than memory.

::

    import skillaxes

    found = skillaxes.discover("activations.zarr", "run", components=10)
    found.directions.components      # (10, n_features), unit rows
    found.topk                       # the rows at both ends of every direction

Importing this package imports nothing heavy: each name is imported at its first use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillaxes.api import apply, discover, plan
    from skillaxes.config import DiscoverConfig
    from skillaxes.errors import SkillaxesError
    from skillaxes.estimator import StreamingPCA
    from skillaxes.run_folder.contents import Discovery, load
    from skillaxes.store import Store, create_store, open_store, open_writer

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


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__`` that loads a name from its module at the first use.

    Parameters
    ----------
    package : name of the package
    homes : module, relative to the package -> the names that it defines, with spaces between them
    """
    home = {name: module for module, names in homes.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)  # a submodule of the same name must not hide it
        return value

    return load


_load = lazy_names(
    __name__,
    {
        "api": "apply discover plan",
        "config": "DiscoverConfig",
        "errors": "SkillaxesError",
        "estimator": "StreamingPCA",
        "run_folder.contents": "Discovery load",
        "store": "Store create_store open_store open_writer",
    },
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("skillaxes")
    return _load(name)


def __dir__() -> list[str]:
    return __all__
