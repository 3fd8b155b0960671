"""The public functions ``discover``, ``apply`` and ``plan``: checks at the door, then ``run``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skillaxes.cluster.world import ALONE, World
from skillaxes.config import AUTO, make_config
from skillaxes.errors import UsageError
from skillaxes.pca.given import Given
from skillaxes.pca.solvers import UNSCALED
from skillaxes.progress import SILENT, Progress
from skillaxes.run.driver import run_job
from skillaxes.run.forecast import STATED, Rates
from skillaxes.run.job import prepare
from skillaxes.run.plan import Plan
from skillaxes.run_folder.contents import Discovery
from skillaxes.run_folder.schema import CENTERED_COSINE
from skillaxes.store import Store

if TYPE_CHECKING:
    from skillaxes.ingest.directions import GivenDirections


def discover(
    store: Store | str | Path,
    run_dir: str | Path | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
    world: World = ALONE,
    **options: Any,
) -> Discovery:
    """Find the principal directions of a store and the rows at both ends of each.

    Parameters
    ----------
    store : a store or its path
    run_dir : folder for the results; None keeps them in memory
    overwrite : replace what another job left in ``run_dir``; it is taken away before the first read
    progress : where remarks and progress go
    world : the processes that share the job; alone by default
    **options : the fields of :class:`skillaxes.config.DiscoverConfig`

    Raises
    ------
    UsageError, StoreError, BadRowsError, RunFolderError, DeviceError : see :mod:`skillaxes.errors`
    StoppedEarly : the process was told to stop (see :mod:`skillaxes.cluster.signals`); the same call goes on
    """
    return run_job(prepare(store, options, world=world), run_dir, overwrite, progress)


def plan(store: Store | str | Path, *, world_size: int = 1, rates: Rates = STATED, **options: Any) -> Plan:
    """What ``discover`` would do with these options, without doing it.

    Parameters
    ----------
    world_size : processes that would share it; the plan is that of the first one, on a host of its own
    rates : what time and traffic of several processes are predicted from
    """
    return prepare(store, options, world=World(0, world_size), rates=rates).plan


def apply(
    store: Store | str | Path,
    run_dir: str | Path | None = None,
    *,
    directions: str | Path | GivenDirections,
    overwrite: bool = False,
    progress: Progress = SILENT,
    world: World = ALONE,
    **options: Any,
) -> Discovery:
    """Rank the rows of a store against given directions.

    The directions are taken as they are, brought to unit length. Their variances, shares and residuals are those of
    this store. Centred cosines and projections are relative to the mean that came with the directions, else to the
    store's own; in the latter case a ranking by centred cosine takes a second read, and ``scores.zarr`` holds no
    centred norms otherwise.

    Parameters
    ----------
    store : a store or its path
    run_dir : folder for the results; None keeps them in memory
    world : the processes that share the job; alone by default
    directions : ``.safetensors`` (``components``, and ``mean`` and ``scale`` if there), ``.npz``, ``.npy``, or a
        pickled array or tensor of shape (k, d)
    **options : the fields of :class:`skillaxes.config.DiscoverConfig` that concern ranking, reading and the device

    Raises
    ------
    SourceError : the file cannot be read
    UsageError : directions of another width than the rows
    """
    from skillaxes.ingest.directions import GivenDirections, read_given_directions

    given = directions if isinstance(directions, GivenDirections) else read_given_directions(directions)
    k = len(given.components)
    if options.get("scale", UNSCALED) != UNSCALED or options.get("solver", AUTO) != AUTO:
        raise UsageError("apply takes the directions as they are: leave out --scale and --solver")
    centered = make_config(**options).ranking.rank_by == CENTERED_COSINE
    solver = Given(
        components=torch.from_numpy(given.components),
        mean=None if given.mean is None else torch.from_numpy(given.mean),
        scale=None if given.scale is None else torch.from_numpy(given.scale),
        source=given.source,
        reads=2 if given.mean is None and centered else 1,
    )
    identity = {"components": k, "directions": _digest(given)}
    job = prepare(store, {**options, "components": k}, solver, identity, world)
    return run_job(job, run_dir, overwrite, progress)


def _digest(given: GivenDirections) -> str:
    digest = hashlib.sha256()
    for part in (given.components, given.mean, given.scale):
        digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
