"""A job before it runs: everything that can be refused without reading a row, and the folder it will write to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skillaxes.cluster.world import ALONE, World
from skillaxes.config import DiscoverConfig, make_config
from skillaxes.devices import Resolved, resolve
from skillaxes.errors import StoreError, UsageError
from skillaxes.run.forecast import STATED, Rates, Shape, outlook
from skillaxes.run.plan import Plan, make_plan
from skillaxes.store import Store, open_store
from skillaxes.stream import device as devices


@dataclass(frozen=True)
class Job:
    """One job, checked and planned.

    Attributes
    ----------
    command : ``discover`` or ``apply``
    store, config : on what, and how
    columns : the columns in use
    layers, layer_ids : columns of each layer among those in use, and the layers' ids; empty where unknown
    device : where it computes
    plan : what it will do and hold
    world : the processes that share it
    """

    command: str
    store: Store
    config: DiscoverConfig
    columns: tuple[slice, ...]
    layers: tuple[slice, ...]
    layer_ids: tuple[int | str, ...]
    device: Resolved
    plan: Plan
    world: World = ALONE


def prepare(
    store: Store | str | Path,
    options: dict[str, Any],
    given: str | None = None,
    world: World = ALONE,
    rates: Rates = STATED,
) -> Job:
    """Everything that can be refused before a row is read.

    Parameters
    ----------
    store : a store or its path
    options : fields of :class:`skillaxes.config.DiscoverConfig`
    given : where directions come from that are only applied; None where they are to be found
    world : the processes that share the job
    rates : what their time is predicted from
    """
    config = make_config(**options)
    device = resolve(config.device, local_rank=world.local_rank)
    world.bind_device(device.device)
    opened = store if isinstance(store, Store) else open_store(store)
    columns = opened.columns if config.layers is None else opened.columns_of(config.layers)
    layers, ids = _layers_in_use(opened, columns)
    _check_store(opened, world)
    if opened.attributes.layer_ids is not None and len(ids) < len(opened.attributes.layer_ids):
        config = replace(config, layers=tuple(int(layer) for layer in ids))  # chosen when the store was opened
    n_columns = sum(part.stop - part.start for part in columns)
    config.check_shape(opened.n_rows, n_columns, given=given is not None)
    config = replace(config, pool=min(config.pool, opened.n_rows // 2))
    if config.scale == "layer-rms" and not layers:
        raise UsageError(
            "--scale layer-rms: this store does not say which columns are which layer; ingest it with --layer-ids and "
            "--hidden, or type --scale column-std"
        )
    seam = devices.open_seam(device.device)
    planned = make_plan(opened, config, n_columns, str(device.device), device.reason, given, seam, world)
    if world.world_size > 1:
        shape = Shape(
            n_rows=opened.n_rows,
            n_columns=n_columns,
            itemsize=opened.itemsize,
            chunk_rows=opened.chunk_rows,
            block_size=planned.block_size,
            reads=planned.reads,
            solver=planned.solver,
            scaled=config.scale != "none",
            n_layers=len(layers),
            on_gpu=seam is not None,
        )
        planned = replace(planned, outlook=outlook(shape, world.world_size, rates))
    return Job("discover" if given is None else "apply", opened, config, columns, layers, ids, device, planned, world)


def _layers_in_use(store: Store, columns: tuple[slice, ...]) -> tuple[tuple[slice, ...], tuple[int | str, ...]]:
    """Columns of each layer among those in use, and the layers' ids; positions where the ids are unknown."""
    hidden = store.attributes.hidden
    if hidden is None:
        return (), ()
    known = store.attributes.layer_ids
    places = [place for part in columns for place in range(part.start // hidden, part.stop // hidden)]
    ids = tuple(known[place] if known is not None else f"#{place} (id unknown)" for place in places)
    return tuple(slice(i * hidden, (i + 1) * hidden) for i in range(len(places))), ids


def _check_store(store: Store, world: World) -> None:
    """Several processes must see one store, wherever each has its copy."""
    prints = world.all_gather_object(store.fingerprint()) if world.world_size > 1 else []
    others = [str(rank) for rank, found in enumerate(prints) if found != prints[0]]
    if others:
        raise StoreError(
            f"{store.path} is another store for process {', '.join(others)} than for process 0: stage the same one"
        )
