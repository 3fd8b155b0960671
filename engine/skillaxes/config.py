"""What a job is asked to do. One frozen value, checked at the door."""

from __future__ import annotations

import operator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from skillaxes.errors import UsageError
from skillaxes.memory import parse_size
from skillaxes.run_folder.schema import RANKINGS, RAW_COSINE

SOLVERS = ("auto", "krylov", "incremental", "covariance")
SCALES = ("none", "layer-rms", "column-std")
BAD_ROWS = ("error", "skip")

# How a job runs, not what comes out of it: these may differ between two runs into one folder.
_HOW = frozenset({"device", "memory", "scratch", "no_gds", "checkpoint_every"})


@dataclass(frozen=True)
class DiscoverConfig:
    """The options of ``discover``.

    Attributes
    ----------
    components : directions to find, k
    top : rows kept at each side of each direction
    pool : rows kept at each side for labeling; capped at half the rows
    solver : ``auto``, ``krylov``, ``incremental`` or ``covariance``
    tolerance : a direction is done when ||C v - lambda v|| / lambda is below it, or below what float32 resolves
    max_reads : most reads of the store by the Krylov solver
    seed : of the warm start, the splits and the samples
    rank_by : ``raw-cosine``, ``centered-cosine`` or ``projection``
    layers : ids of the layers to use; None for all columns
    scale : ``none``; ``layer-rms`` divides each layer by the root mean variance of its columns; ``column-std``
        divides each column by its standard deviation. Both cost one further read.
    bad_rows : ``error``, or ``skip`` to leave rows with NaN or infinity out of everything
    device : ``auto``, ``cpu`` or ``cuda``
    memory : bytes the process may hold, interpreter included (:func:`make_config` takes a text such as ``2GiB`` too);
        None for 60% of what the machine grants
    scratch : folder for what memory does not hold; None for $SLURM_TMPDIR, then $TMPDIR
    no_gds : never fetch chunks straight into a GPU's memory
    checkpoint_every : seconds between two checkpoints within a read; 0 for one at every panel
    """

    components: int = 10
    top: int = 10
    pool: int = 200
    solver: str = "auto"
    tolerance: float = 1e-3
    max_reads: int = 8
    seed: int = 0
    rank_by: str = RAW_COSINE
    layers: tuple[int, ...] | None = None
    scale: str = "none"
    bad_rows: str = "error"
    device: str = "auto"
    memory: int | None = None
    scratch: Path | None = None
    no_gds: bool = False
    checkpoint_every: float = 600.0

    def __post_init__(self) -> None:
        _at_least("components", self.components, 1)
        _at_least("top", self.top, 1)
        _at_least("pool", self.pool, 0)
        _at_least("max-reads", self.max_reads, 2)
        _at_least("seed", self.seed, 0)
        _one_of("solver", self.solver, SOLVERS)
        _one_of("rank-by", self.rank_by, RANKINGS)
        _one_of("scale", self.scale, SCALES)
        _one_of("bad-rows", self.bad_rows, BAD_ROWS)
        if not 0 < self.tolerance < 1:
            raise UsageError(f"--tolerance {self.tolerance}: needs a number between 0 and 1, for example 1e-3")
        if not self.checkpoint_every >= 0:
            raise UsageError(f"--checkpoint-every {self.checkpoint_every}: needs seconds, 0 or more")
        if self.layers is not None and not self.layers:
            raise UsageError("--layers: needs at least one layer id, for example --layers 15,19")

    def check_shape(self, n_rows: int, n_features: int, *, given: bool = False) -> None:
        """Hold the options against the matrix that will be used; any number of given directions can be applied.

        Raises
        ------
        UsageError : more components than the matrix has, or lists that would overlap
        """
        if n_rows < 2:
            raise UsageError(f"a matrix of {n_rows} row has no directions and no two ends: needs at least 2 rows")
        limit = min(n_rows, n_features)
        if self.components > limit and not given:
            raise UsageError(
                f"--components {self.components}: a matrix of {n_rows:,} rows x {n_features:,} columns has at most "
                f"{limit:,} principal directions; type --components {limit} or less"
            )
        if self.top > n_rows // 2:
            raise UsageError(
                f"--top {self.top}: both sides together would need {2 * self.top:,} of {n_rows:,} rows, so the lists "
                f"would overlap; type --top {n_rows // 2} or less"
            )

    def as_dict(self) -> dict[str, Any]:
        """All options, as JSON can hold them."""
        options = asdict(self)
        options["scratch"] = None if self.scratch is None else str(self.scratch)
        options["layers"] = None if self.layers is None else list(self.layers)
        return options

    def result_changing(self) -> dict[str, Any]:
        """The options that change what comes out, for comparing two jobs."""
        return {name: value for name, value in self.as_dict().items() if name not in _HOW}


def make_config(**options: Any) -> DiscoverConfig:
    """A :class:`DiscoverConfig` from keywords, with a message that names an unknown one."""
    known = {field.name for field in fields(DiscoverConfig)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}: the options are {', '.join(sorted(known))}")
    if isinstance(options.get("memory"), str):
        options["memory"] = parse_size(options["memory"])
    for name in ("components", "top", "pool", "max_reads", "seed", "memory"):
        if options.get(name) is not None:
            options[name] = _whole(name, options[name])
    for name in ("tolerance", "checkpoint_every"):
        if name in options:
            options[name] = _number(name.replace("_", "-"), options[name])
    if options.get("layers") is not None:
        options["layers"] = tuple(sorted({_whole("layers", layer) for layer in options["layers"]}))
    if options.get("scratch") is not None:
        options["scratch"] = Path(options["scratch"])
    return DiscoverConfig(**options)


def _whole(name: str, value: Any) -> int:
    """``value`` as an int, for whole numbers of any library."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UsageError(f"--{name.replace('_', '-')} {value}: needs whole numbers") from None


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"--{name} {value}: needs a number") from None


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"--{name} {value}: needs a whole number of at least {least}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"--{name} {value}: is not one of {', '.join(choices)}")
