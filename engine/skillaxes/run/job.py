"""A job before it runs: everything that can be refused without reading a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skillaxes.cluster.world import ALONE, World
from skillaxes.config import DiscoverConfig, make_config
from skillaxes.devices import Resolved, resolve, torch_dtype
from skillaxes.errors import StoreError, UsageError
from skillaxes.pca.base import Problem, Solver
from skillaxes.pca.given import Given
from skillaxes.pca.solvers import choose_solver, make_solver
from skillaxes.run.forecast import STATED, Rates
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
    solver, problem : what finds the directions, and in what; the problem is not planned yet
    columns : the columns in use
    layers, layer_ids : columns of each layer among those in use, and the layers' ids; empty where unknown
    device : where it computes
    plan : what it will do and hold
    identity : what changes the result besides the options, for comparing two jobs
    world : the processes that share it
    """

    command: str
    store: Store
    config: DiscoverConfig
    solver: Solver[Any]
    problem: Problem
    columns: tuple[slice, ...]
    layer_ids: tuple[int | str, ...]
    device: Resolved
    plan: Plan
    identity: dict[str, Any] = field(default_factory=dict)
    world: World = ALONE

    @property
    def layers(self) -> tuple[slice, ...]:
        """Columns of each layer among those in use."""
        return self.problem.layers


def prepare(
    store: Store | str | Path,
    options: dict[str, Any],
    given: Given | None = None,
    identity: dict[str, Any] | None = None,
    world: World = ALONE,
    rates: Rates = STATED,
) -> Job:
    """Everything that can be refused before a row is read.

    Parameters
    ----------
    store : a store or its path
    options : fields of :class:`skillaxes.config.DiscoverConfig`
    given : directions that are only applied; None where they are to be found
    identity : what changes the result besides the options
    world : the processes that share the job
    rates : what their time is predicted from
    """
    config = make_config(**options)
    device = resolve(config.machine.device, local_rank=world.local_rank)
    world.bind_device(device.device)
    opened = store if isinstance(store, Store) else open_store(store)
    columns = opened.columns if config.input.layers is None else opened.columns_of(config.input.layers)
    layers, ids = _layers_in_use(opened, columns)
    _check_store(opened, world)
    if opened.attributes.layer_ids is not None and len(ids) < len(opened.attributes.layer_ids):
        config = config.replaced(layers=tuple(int(layer) for layer in ids))  # chosen when the store was opened
    n_columns = sum(part.stop - part.start for part in columns)
    config.check_shape(opened.n_rows, n_columns, given=given is not None)
    config = config.replaced(pool=min(config.ranking.pool, opened.n_rows // 2))
    if config.solver.scale == "layer-rms" and not layers:
        raise UsageError(
            "--scale layer-rms: this store does not say which columns are which layer; ingest it with --layer-ids and "
            "--hidden, or type --scale column-std"
        )
    if given is not None and given.components.shape[1] != n_columns:
        raise UsageError(
            f"{given.source}: directions with {given.components.shape[1]:,} columns, but {n_columns:,} columns of the "
            "store are in use: take directions of that width, or choose their layers with --layers"
        )
    streams = devices.device_streams(device.device)
    problem = Problem(
        n_rows=opened.n_rows,
        n_columns=n_columns,
        dtype=torch_dtype(opened.dtype),
        device=device.device,
        options=config.solver,
        layers=layers,
        skip_bad_rows=config.input.bad_rows == "skip",
        storage_bound=streams is not None,
    )
    choice = choose_solver(opened.n_rows, n_columns, config.solver.components, config.solver.solver)
    solver: Solver[Any] = given or make_solver(choice.name)
    planned = make_plan(
        opened,
        config,
        problem,
        solver,
        reasons=() if given else choice.reasons,
        device_reason=device.reason,
        streams=streams,
        world=world,
        rates=rates,
    )
    return Job(
        "discover" if given is None else "apply",
        opened,
        config,
        solver,
        problem,
        columns,
        ids,
        device,
        planned,
        identity or {},
        world,
    )


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
