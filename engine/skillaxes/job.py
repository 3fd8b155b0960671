"""A job before it runs: everything that can be refused without reading a row, and the folder it will write to."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skillaxes import memory
from skillaxes.cluster.world import ALONE, World
from skillaxes.config import DiscoverConfig, make_config
from skillaxes.devices import Resolved, resolve
from skillaxes.errors import InputError, StoreError, UsageError
from skillaxes.planning import Plan, make_plan
from skillaxes.run_folder import manifest as manifests
from skillaxes.run_folder.checkpoint import holds_state
from skillaxes.run_folder.formats import FORMAT_VERSION
from skillaxes.store import Store, open_store
from skillaxes.stream import device as devices
from skillaxes.stream.panels import PanelStream
from skillaxes.traffic import STATED, Rates, Shape, outlook

_REMEMBERED = 10.0  # seconds for which a network file system may answer that a new file is not there


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
    device = resolve(config.device, local_index=world.local_index)
    world.use(device.device)
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
    if world.size > 1:
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
        planned = replace(planned, outlook=outlook(shape, world.size, rates))
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
    prints = world.gather(store.fingerprint()) if world.size > 1 else []
    others = [str(rank) for rank, found in enumerate(prints) if found != prints[0]]
    if others:
        raise StoreError(
            f"{store.path} is another store for process {', '.join(others)} than for process 0: stage the same one"
        )


def _check_shared(folder: Path, world: World) -> None:
    """Several processes must see one run folder."""
    token = folder / world.share(f".{uuid.uuid4().hex}.seen")
    if world.rank == 0:
        token.touch()
    world.together("the run folder")
    seen = world.gather(_appears(token))
    if world.rank == 0:
        token.unlink(missing_ok=True)
    blind = [str(rank) for rank, found in enumerate(seen) if not found]
    if blind:
        raise UsageError(
            f"{folder} is not seen by process {', '.join(blind)}: with several processes the run folder must lie on a "
            "file system that all of them share"
        )


def _appears(path: Path) -> bool:
    """Whether a file is there, or comes within the time that a network file system remembers that it was not."""
    limit = time.monotonic() + _REMEMBERED
    while not path.exists():
        if time.monotonic() > limit:
            return False
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            os.listdir(path.parent)
    return True


@contextlib.contextmanager
def run_folder(folder: Path | None, world: World = ALONE) -> Iterator[Path | None]:
    """The run folder while a job writes to it; what could not be used leaves nothing behind.

    Of several processes the lowest surviving one puts on record why all had to end.

    Raises
    ------
    UsageError : several processes without a folder, or with one that lies on a disk of one machine
    """
    if folder is None:
        if world.size > 1:
            raise UsageError(f"{world.size} processes need a run folder that all of them see: give run_dir")
        yield None
        return
    created = world.share(not folder.exists())
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    if world.size > 1:
        _check_shared(folder, world)

    def clear() -> None:
        manifests.clear(folder)
        if created:
            shutil.rmtree(folder, ignore_errors=True)

    def lost(code: int, message: str) -> None:
        if code == InputError.exit_code and not holds_state(folder):
            clear()
        else:
            manifests.mark_failed(folder, message)

    world.when_lost(lost)
    try:
        yield folder
    except InputError as error:
        # A store that fails after hours is mended, or staged again: what there is to go on from stays.
        if world.rank == 0 and not (isinstance(error, StoreError) and holds_state(folder)):
            clear()
        raise


def open_stream(job: Job) -> PanelStream:
    """The job's rows as panels."""
    return PanelStream(
        job.store,
        panel_rows=job.plan.panel_rows,
        device=job.device.device,
        columns=job.columns,
        rows=job.plan.rows,
        cache_bytes=job.plan.memory.cache,
        keep_bytes=0 if job.plan.gpu is None else job.plan.gpu.kept,
        workers=job.plan.workers,
        direct=job.plan.gds == "taken",
    )


def about(job: Job) -> dict[str, Any]:
    """What a manifest says before anything was found."""
    import torch

    store = job.store
    known = store.attributes
    return {
        "format_version": FORMAT_VERSION,
        "command": job.command,
        "config": job.config.as_dict(),
        "store": {
            "path": str(store.path),
            "fingerprint": store.fingerprint(),
            "shape": list(store.shape),
            "dtype": store.dtype,
            "chunk_rows": store.chunk_rows,
            "n_rows": store.n_rows,
            "n_features": store.n_features,
            "nbytes": store.nbytes,
            "layer_ids": known.layer_ids,
            "hidden": known.hidden,
            "model": known.model,
            "revision": known.revision,
            "hook": known.hook,
            "pooling": known.pooling,
            "token_range": known.token_range,
        },
        "versions": manifests.versions(),
        "machine": manifests.machine(str(job.device.device), torch.get_num_threads(), memory.granted()),
        "plan": job.plan.as_dict(),
    }


def opening_words(job: Job) -> str:
    """One line on what is about to happen."""
    store, planned = job.store, job.plan
    shape = " x ".join(f"{extent:,}" for extent in store.shape)
    mine = planned.rows[1] - planned.rows[0]
    kept = "" if planned.gpu is None else f", {planned.gpu.kept_rows / mine:.0%} of them kept in its memory"
    shared = ""
    if planned.outlook is not None:
        handed = memory.show(planned.outlook["traffic_bytes"])
        shared = f"; shared by {planned.processes} processes, each hands {handed} a read to the others"
    return (
        f"{store.path}: {shape} {store.dtype}, {memory.show(store.nbytes)}; {planned.solver} on {planned.device} "
        f"({planned.device_reason}), rows through {planned.road}{kept}{shared}"
    )
