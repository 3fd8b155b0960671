"""Options of a job: default, check, flags and help of each, declared once. The command line is made from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from skillaxes.errors import UsageError
from skillaxes.memory import parse_size
from skillaxes.options import as_path, check, converted, option, whole
from skillaxes.pca.solvers import SCALES, SOLVERS, UNSCALED
from skillaxes.run_folder.schema import RANKINGS, RAW_COSINE

AUTO = "auto"
FAIL, SKIP = BAD_ROWS = ("error", "skip")


def parse_bytes(name: str, text: str) -> int:
    """A text such as ``2GiB`` as bytes; ``name`` is the option's, for messages."""
    try:
        return parse_size(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def parse_layer_ids(name: str, text: str) -> tuple[int, ...]:
    """A text such as ``15,19`` as layer ids in its order; ``name`` is the option's, for messages."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"{name} {text}: needs layer ids with commas between them, for example 15,19") from None


def _bytes(name: str, value: Any) -> int | None:
    """Bytes from an int or a text such as ``2GiB``; None for ``auto``."""
    if value == AUTO:
        return None
    return parse_bytes(name, value) if isinstance(value, str) else whole(name, value)


def _layer_ids(name: str, value: Any) -> tuple[int, ...]:
    """Layer ids in ascending order, from integers or a text such as ``15,19``."""
    if isinstance(value, str):
        value = parse_layer_ids(name, value)
    ids = tuple(sorted({whole(name, layer) for layer in value}))
    if not ids:
        raise UsageError(f"{name}: needs at least one layer id, for example {name} 15,19")
    return ids


def _in_words(names: Iterable[str]) -> str:
    """``"a, b or c"``."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


@dataclass(frozen=True)
class SolverConfig:
    """Options of the solver.

    Attributes
    ----------
    components : directions to find, k
    solver : one of :data:`skillaxes.pca.solvers.SOLVERS`, or ``auto``
    tolerance : bound on ||C v - lambda v|| / lambda, below which a direction is done; float32 may resolve less
    max_reads : most reads of the store by the Krylov solver
    scale : ``none``; ``layer-rms`` divides each layer by the root mean variance of its columns; ``column-std``
        divides each column by its standard deviation. Both cost one further read.
    seed : seed of the warm start, the splits and the samples
    """

    components: int = option(10, "-k", at_least=1, metavar="N", help="Directions to find.")
    solver: str = option(
        AUTO,
        choices=(AUTO, *SOLVERS),
        metavar="NAME",
        help=f"{_in_words((AUTO, *SOLVERS))}; auto follows a written rule.",
    )
    tolerance: float = option(
        1e-3,
        between=(0, 1),
        needs="a number between 0 and 1, for example 1e-3",
        metavar="T",
        help="A direction is done when |C v - λ v| / λ is below it.",
    )
    max_reads: int = option(8, at_least=2, metavar="N", help="Read the store at most this often.")
    scale: str = option(
        UNSCALED,
        choices=SCALES,
        metavar="HOW",
        help="none, layer-rms (layers of equal size) or column-std (columns likewise).",
    )
    seed: int = option(0, at_least=0, metavar="N", help="The same seed gives the same bytes.")


@dataclass(frozen=True)
class RankingConfig:
    """Options of the ranking of rows.

    Attributes
    ----------
    top : rows kept at each side of each direction
    pool : rows kept at each side for labeling; capped at half the rows
    rank_by : one of :data:`skillaxes.run_folder.schema.RANKINGS`
    """

    top: int = option(10, at_least=1, metavar="N", help="Rows kept at each end of each direction.")
    pool: int = option(
        200, at_least=0, metavar="N", help="Rows kept at each end for labeling and for the scores of labels."
    )
    rank_by: str = option(
        RAW_COSINE,
        choices=tuple(RANKINGS),
        metavar="HOW",
        help=f"{_in_words(RANKINGS)}: what the rows of a direction are ordered by.",
    )


@dataclass(frozen=True)
class InputConfig:
    """Options of the part of a store that is used.

    Attributes
    ----------
    layers : ids of the layers to use; None for all columns
    bad_rows : ``error``, or ``skip`` to leave rows with NaN or infinity out of everything
    """

    layers: tuple[int, ...] | None = option(
        None, convert=_layer_ids, metavar="IDS", help="Use these layers only, by layer id: --layers 15,19."
    )
    bad_rows: str = option(
        FAIL,
        choices=BAD_ROWS,
        metavar="HOW",
        help="Rows with NaN or infinity: error names them, skip leaves them out.",
    )


@dataclass(frozen=True)
class MachineConfig:
    """Options of the machine, which do not change a result.

    Attributes
    ----------
    device : ``auto``, ``cpu`` or ``cuda``
    memory : most bytes of the process, interpreter included; None for 60% of the memory that the machine grants
    scratch : folder for projections on disk; None for $SLURM_TMPDIR, then $TMPDIR
    no_gds : whether GPUDirect Storage is forbidden
    checkpoint_every : seconds between two checkpoints within a read; 0 for one at every panel
    """

    device: str = option(AUTO, metavar="NAME", help="auto, cpu, cuda or cuda:N.")
    memory: int | None = option(
        None,
        convert=_bytes,
        metavar="SIZE",
        help="What the process may hold: 2GiB, 512MiB; auto is 60% of what is granted.",
        shown_default=AUTO,
    )
    scratch: Path | None = option(
        None,
        convert=as_path,
        metavar="DIR",
        help="For what memory does not hold. [default: $SLURM_TMPDIR, then $TMPDIR]",
    )
    no_gds: bool = option(False, help="Never fetch chunks straight into a GPU's memory (GPUDirect Storage).")
    checkpoint_every: float = option(
        600.0,
        accepts=lambda value: value >= 0,
        needs="seconds, 0 or more",
        metavar="SECONDS",
        help="Write a checkpoint this often within a read; 0 at every panel.",
    )


@dataclass(frozen=True)
class DiscoverConfig:
    """The options of ``discover`` in groups; :func:`make_config` takes them by name.

    Raises
    ------
    UsageError : an option with a value that is not allowed
    """

    solver: SolverConfig = SolverConfig()
    ranking: RankingConfig = RankingConfig()
    input: InputConfig = InputConfig()
    machine: MachineConfig = MachineConfig()

    def __post_init__(self) -> None:
        for group in self._groups():
            check(group)

    def check_shape(self, n_rows: int, n_features: int, *, given: bool = False) -> None:
        """Check the options against the shape of the matrix in use.

        Parameters
        ----------
        given : whether directions are given, of which there may be any number

        Raises
        ------
        UsageError : fewer than two rows, more components than the matrix has, or lists that would overlap
        """
        if n_rows < 2:
            raise UsageError(f"a matrix of {n_rows} row has no directions and no two ends: needs at least 2 rows")
        limit, components, top = min(n_rows, n_features), self.solver.components, self.ranking.top
        if components > limit and not given:
            raise UsageError(
                f"--components {components}: a matrix of {n_rows:,} rows x {n_features:,} columns has at most "
                f"{limit:,} principal directions; type --components {limit} or less"
            )
        if top > n_rows // 2:
            raise UsageError(
                f"--top {top}: both sides together would need {2 * top:,} of {n_rows:,} rows, so the lists "
                f"would overlap; type --top {n_rows // 2} or less"
            )

    def as_dict(self) -> dict[str, Any]:
        """All options by name, without groups, as plain values for JSON."""
        return {name: _plain(value) for group in self._groups() for name, value in asdict(group).items()}

    def result_changing(self) -> dict[str, Any]:
        """The options that change a result, for comparing two jobs: all but those of the machine."""
        machine = {one.name for one in fields(MachineConfig)}
        return {name: value for name, value in self.as_dict().items() if name not in machine}

    def replaced(self, **options: Any) -> DiscoverConfig:
        """The options with some values replaced, by name.

        Raises
        ------
        UsageError : an unknown option, or a value that is not allowed
        """
        known = {one.name: group for group in _GROUPS for one in fields(GROUPS[group])}
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise UsageError(f"unknown option {unknown[0]!r}: the options are {', '.join(sorted(known))}")
        changed: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            changed.setdefault(known[name], {})[name] = converted(GROUPS[known[name]], name, value)
        return replace(self, **{group: replace(getattr(self, group), **values) for group, values in changed.items()})

    def _groups(self) -> tuple[Any, ...]:
        return tuple(getattr(self, group) for group in _GROUPS)


GROUPS: dict[str, Any] = {
    "solver": SolverConfig,
    "ranking": RankingConfig,
    "input": InputConfig,
    "machine": MachineConfig,
}
_GROUPS = tuple(GROUPS)


def make_config(**options: Any) -> DiscoverConfig:
    """A :class:`DiscoverConfig` from options by name; the others have their defaults.

    Raises
    ------
    UsageError : an unknown option, or a value that is not allowed
    """
    return DiscoverConfig().replaced(**options)


def _plain(value: Any) -> Any:
    """``value`` as JSON holds it: paths as text, tuples as lists."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
