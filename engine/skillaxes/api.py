"""The public functions ``discover``, ``plan`` and ``apply``."""

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
from skillaxes.ranking.scores import SCORES
from skillaxes.run.driver import run_job
from skillaxes.run.forecast import STATED, Rates
from skillaxes.run.job import prepare
from skillaxes.run.plan import Plan
from skillaxes.run_folder.contents import Discovery
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
    overwrite : remove the results of another job in ``run_dir`` before the first read
    progress : receiver of remarks and progress
    world : the processes that share the job; one by default
    **options : the fields of the groups of :class:`skillaxes.config.DiscoverConfig`

    Returns
    -------
    Discovery : directions, float32: ``components`` (k, d) with unit rows and their figures; the table of top-k rows;
        the manifest

    Raises
    ------
    UsageError : an option or a combination of options that cannot be served
    StoreError, BadRowsError : a store or rows that cannot be used
    RunFolderError : a run folder of another job, without ``overwrite``
    DeviceError, DeviceMemoryError : a device that is missing, or a GPU without memory for the smallest panels
    StoppedEarly : a stop was requested, see :mod:`skillaxes.cluster.signals`; the same call resumes the job

    Notes
    -----
    The solvers are block Krylov iteration (Musco & Musco 2015, algorithm 2), the covariance matrix for few columns, and
    incremental principal components (Ross et al. 2008); see :func:`skillaxes.pca.solvers.choose_solver`.
    """
    return run_job(prepare(store, options, world=world), run_dir, overwrite, progress)


def plan(store: Store | str | Path, *, world_size: int = 1, rates: Rates = STATED, **options: Any) -> Plan:
    """The plan of ``discover`` with these options: solver, reads, panels and memory.

    Parameters
    ----------
    store : a store or its path
    world_size : processes that share the job; the plan is that of the first one, on a host of its own
    rates : rates of the forecast of several processes
    **options : the fields of the groups of :class:`skillaxes.config.DiscoverConfig`

    Raises
    ------
    UsageError : an option that cannot be served, or a budget below the least that the job needs
    StoreError : a store that cannot be used
    DeviceError : a device that is missing
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

    The directions are normalised to unit length and not changed otherwise. Variances, shares and residuals are those of
    this store. Centred cosines and projections are relative to the mean of the directions' file, or without one to the
    mean of the store. In the latter case a ranking by centred cosine takes a second read; without it ``scores.zarr``
    holds no centred norms.

    Parameters
    ----------
    store : a store or its path
    run_dir : folder for the results; None keeps them in memory
    directions : ``.safetensors`` (``components``, and ``mean`` and ``scale`` if there), ``.npz``, ``.npy``, or a
        pickled array or tensor of shape (k, d)
    overwrite : remove the results of another job in ``run_dir`` before the first read
    progress : receiver of remarks and progress
    world : the processes that share the job; one by default
    **options : the fields of the groups of :class:`skillaxes.config.DiscoverConfig` but ``solver`` and ``scale``

    Returns
    -------
    Discovery : the given directions with their figures, float32; the table of top-k rows; the manifest

    Raises
    ------
    SourceError : a file of directions that cannot be read
    UsageError : directions of another width than the rows, or an option that cannot be served
    StoreError, BadRowsError, RunFolderError, DeviceError, DeviceMemoryError, StoppedEarly : as for :func:`discover`
    """
    from skillaxes.ingest.directions import GivenDirections, read_given_directions

    given = directions if isinstance(directions, GivenDirections) else read_given_directions(directions)
    k = len(given.components)
    if options.get("scale", UNSCALED) != UNSCALED or options.get("solver", AUTO) != AUTO:
        raise UsageError("apply takes the directions as they are: leave out --scale and --solver")
    score = SCORES[make_config(**options).ranking.rank_by]
    solver = Given(
        components=torch.from_numpy(given.components),
        mean=None if given.mean is None else torch.from_numpy(given.mean),
        scale=None if given.scale is None else torch.from_numpy(given.scale),
        source=given.source,
        reads=2 if given.mean is None and score.needs_centered_norms else 1,
    )
    identity = {"components": k, "directions": _digest(given)}
    job = prepare(store, {**options, "components": k}, solver, identity, world)
    return run_job(job, run_dir, overwrite, progress)


def _digest(given: GivenDirections) -> str:
    """16 hexadecimal digits that identify given directions."""
    digest = hashlib.sha256()
    for part in (given.components, given.mean, given.scale):
        digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
