"""Options of a job: default, check, flags and help of each, declared once. The command line is made from them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from skillaxes.errors import UsageError
from skillaxes.memory import parse_size
from skillaxes.pca.solvers import SCALES, SOLVERS, UNSCALED
from skillaxes.run_folder.schema import RANKINGS, RAW_COSINE

AUTO = "auto"
FAIL, SKIP = BAD_ROWS = ("error", "skip")


@dataclass(frozen=True)
class Option:
    """Declaration of an option, for its check, its messages and the command line.

    Attributes
    ----------
    flags : further names on the command line, such as ``-k``
    at_least : smallest whole number
    choices : allowed values
    accepts, needs : a check, and the end of its message "--option value: needs ..."
    convert : converts a value given the name on the command line; None for the conversion of the default's type
    help, metavar, panel : help text, placeholder and group of the option on the command line
    shown_default : default in the help of the command line; None for the default itself
    """

    flags: tuple[str, ...] = ()
    at_least: int | None = None
    choices: tuple[str, ...] | None = None
    accepts: Callable[[Any], bool] | None = None
    needs: str = ""
    convert: Callable[[str, Any], Any] | None = None
    help: str = ""
    metavar: str | None = None
    panel: str = ""
    shown_default: str | None = None


def option(default: Any, *flags: str, between: tuple[float, float] | None = None, **about: Any) -> Any:
    """A dataclass field that is an option.

    Parameters
    ----------
    flags : see :class:`Option`
    between : the open interval of allowed numbers
    **about : further attributes of :class:`Option`
    """
    if between is not None:
        low, high = between
        about = {"accepts": lambda value: low < value < high, "needs": f"a number between {low} and {high}", **about}
    return field(default=default, metadata={"option": Option(flags=flags, **about)})


def option_of(one: Field[Any]) -> Option:
    """The declaration of a dataclass field that is an option."""
    return one.metadata["option"]


def flag(name: str) -> str:
    """The name of a field on the command line: ``--max-reads`` for ``max_reads``."""
    return f"--{name.replace('_', '-')}"


def converted(group: Any, name: str, value: Any) -> Any:
    """``value`` converted to the type of the field ``name`` of a class of options.

    Raises
    ------
    UsageError : a value that cannot be converted
    """
    one = group.__dataclass_fields__[name]
    convert = option_of(one).convert or _BY_TYPE.get(type(one.default))
    return value if convert is None or value is None else convert(flag(name), value)


def check(group: Any) -> None:
    """Check the options of a group against their declarations.

    Raises
    ------
    UsageError : the first option with a value that is not allowed
    """
    for one in fields(group):
        about, value = option_of(one), getattr(group, one.name)
        if value is None and one.default is None:
            continue
        if about.at_least is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < about.at_least
        ):
            raise UsageError(f"{flag(one.name)} {value}: needs a whole number of at least {about.at_least}")
        if about.choices is not None and value not in about.choices:
            raise UsageError(f"{flag(one.name)} {value}: is not one of {', '.join(about.choices)}")
        if about.accepts is not None and not about.accepts(value):
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UsageError(f"{flag(one.name)} {shown}: needs {about.needs}")


def _whole(name: str, value: Any) -> int:
    """``value`` as an int; integers of numpy and torch are accepted."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} {value}: needs whole numbers") from None


def _number(name: str, value: Any) -> float:
    """``value`` as a float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} {value}: needs a number") from None


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
    return parse_bytes(name, value) if isinstance(value, str) else _whole(name, value)


def _layer_ids(name: str, value: Any) -> tuple[int, ...]:
    """Layer ids in ascending order, from integers or a text such as ``15,19``."""
    if isinstance(value, str):
        value = parse_layer_ids(name, value)
    ids = tuple(sorted({_whole(name, layer) for layer in value}))
    if not ids:
        raise UsageError(f"{name}: needs at least one layer id, for example {name} 15,19")
    return ids


def as_path(name: str, value: Any) -> Path:
    """``value`` as a path."""
    return Path(value)


def as_names(name: str, value: Any) -> tuple[str, ...]:
    """Names as a tuple, from a sequence or a single name."""
    return (value,) if isinstance(value, str) else tuple(value)


def _in_words(names: Iterable[str]) -> str:
    """``"a, b or c"``."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


_BY_TYPE: dict[type, Callable[[str, Any], Any]] = {int: _whole, float: _number}


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
