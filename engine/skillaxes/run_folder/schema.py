"""Contents of a run folder: names of files, columns of tables, numbers of a direction, the manifest. Format version 2.

Rooms that only read or write run folders (labeling, report, export) depend on this module and on no solver. Version 1
called ``certified`` ``settled``, ``diagnostics`` ``announcements`` and ``bytes_sent`` ``handed_over``; it is read as
version 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
DIRECTIONS = "directions.safetensors"
SCORES = "scores.zarr"
TOPK = "topk.parquet"
SELECTION = "selection.parquet"
LABELS = "labels.jsonl"
REPORT = "report.html"
CHECKPOINT = "checkpoint"
POSITIVE = "positive"
NEGATIVE = "negative"
SIDES = (POSITIVE, NEGATIVE)
RAW_COSINE = "raw-cosine"
CENTERED_COSINE = "centered-cosine"
PROJECTION = "projection"


class ScoreBlock(NamedTuple):
    """Some rows of ``scores.zarr`` and what belongs to their k directions; all float32.

    Attributes
    ----------
    projection : (n, k), of the rows less the mean
    norm, centered_norm : (n,), of the rows and of the rows less the mean
    along_mean : (k,), projection of the mean row
    deviation : (k,), standard deviation of the projections
    """

    projection: NDArray[np.float32]
    norm: NDArray[np.float32]
    centered_norm: NDArray[np.float32]
    along_mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


class StoredScore(NamedTuple):
    """A score that rows can be ranked by, as a run folder holds it: in ``topk.parquet`` and behind ``scores.zarr``.

    Attributes
    ----------
    title : its name for people, with the unit of ``values``
    topk_column : its column of ``topk.parquet``
    values : (n, k) scores of a block of rows; NaN or infinity where a row has none
    limit : histograms cover ``-limit`` to ``limit``
    listed_alike : whether ``topk_column`` has the unit of ``values``
    """

    title: str
    topk_column: str
    values: Callable[[ScoreBlock], NDArray[np.float32]]
    limit: float
    listed_alike: bool


# How each is computed of kept projections stands in skillaxes.ranking.scores.
RANKINGS = {
    RAW_COSINE: StoredScore(
        "Raw cosine",
        "cosine",
        lambda rows: (rows.projection + rows.along_mean) / rows.norm[:, None],
        limit=1.0,
        listed_alike=True,
    ),
    CENTERED_COSINE: StoredScore(
        "Centred cosine",
        "cosine_centered",
        lambda rows: rows.projection / rows.centered_norm[:, None],
        limit=1.0,
        listed_alike=True,
    ),
    PROJECTION: StoredScore(
        "Projection, in standard deviations",
        "projection",
        lambda rows: rows.projection / rows.deviation,
        limit=12.0,
        listed_alike=False,
    ),
}


class Column(NamedTuple):
    """A column of a table: its name, its type in arrow's words, and whether it may be null."""

    name: str
    type: str
    nullable: bool = False


# By run_folder.tables.arrow_schema these become schemas of pyarrow, which takes long to import.
TOPK_COLUMNS = (
    Column("direction", "int32"),
    Column("side", "string"),
    Column("position", "int32"),  # 0 = most extreme
    Column("row", "int64"),
    Column("trace_id", "string", nullable=True),
    Column("cosine", "float32"),  # of the raw row
    Column("cosine_centered", "float32", nullable=True),  # of the row less the mean
    Column("projection", "float32"),  # on the centred row
    Column("certified", "bool"),  # no error of the direction can take the row out of the list
)
# Roles of a row in selection.parquet.
SHOWN = "shown"  # the first `top` positions of a side: what a labeler may see
HELD_OUT = "held_out"  # the positions behind them, down to `pool`: what scores are made on
MIDDLE = "middle"  # rows from the quantiles in between
SAMPLE = "sample"  # a seeded sample of all rows (all of them in a small store): confounds, baselines
ROLES = (SHOWN, HELD_OUT, MIDDLE, SAMPLE)
# Kinds of direction in selection.parquet.
COMPONENT = "component"  # a principal direction; `direction` counts as in topk.parquet
RANDOM = "random"  # a random direction of the same space, the baseline of scores; counted from 0 by itself
SELECTION_COLUMNS = (
    Column("kind", "string"),
    Column("role", "string"),
    Column("direction", "int32"),
    Column("side", "string", nullable=True),  # null for `middle` and `sample`
    Column("position", "int32"),
    Column("row", "int64"),
    Column("trace_id", "string", nullable=True),
    Column("cosine", "float32"),  # the score that ranked the rows (`rank_by`)
    Column("norm", "float32"),  # of the raw row
)
# One JSON object under this key of the schema's metadata. Its fields:
#   n_rows        int            rows of the store
#   rank_by       str            one of RANKINGS
#   top, pool     int            positions shown and kept a side
#   split_half    [float]        |cos| between halves, a component direction each; null where unknown
#   token_range   any            what part of the text the row has seen; null where unknown
#   store         {fingerprint, model, revision, hook, pooling}   as far as known
SELECTION_META = b"skillaxes"

REPRODUCIBLE = 0.9  # |cos| between the directions of two random halves, below which a direction is sample-dependent
NORM_CORRELATED = 0.3  # |correlation| with the row norm that is worth a word


def percent(share: float) -> str:
    """``"31%"``, ``"4.2%"``, ``"0.31%"``."""
    value = 100 * share
    return f"{value:.0f}%" if abs(value) >= 10 else f"{value:.1f}%" if abs(value) >= 1 else f"{value:.2g}%"


@dataclass(frozen=True)
class Stat:
    """How a number of a direction is shown, in the terminal's table and on the page.

    Attributes
    ----------
    title : head of its column in the table; None for no column
    form : format string of the table
    phrase : behind the number on the page; may name ``{side}`` and ``{bound}``
    page : the number, and the length of the list that it is about, as the page's text
    heading : of its column in the page's overview; None for no column
    help : one sentence for the legends, without its end
    warn_below, warn_beyond : the value, or its magnitude, from which on it needs a warning
    of_list : whether it counts members of a list, so that fewer than all need a warning
    by_side : whether it holds a value for each side
    absent : the page's text where there is no value; None to leave the number out
    """

    title: str | None
    form: str
    phrase: str
    page: Callable[[Any, int], str]
    heading: str | None = None
    help: str | None = None
    warn_below: float | None = None
    warn_beyond: float | None = None
    of_list: bool = False
    by_side: bool = False
    absent: str | None = None

    def cell(self, value: Any) -> str:
        """The table's text; a dash where the number is unknown."""
        if self.by_side:
            return " / ".join("–" if one is None else self.form.format(one) for one in map((value or {}).get, SIDES))
        return "–" if value is None else self.form.format(value)

    def warns(self, value: float, n_listed: int) -> bool:
        """Whether a value needs a warning, given the length of the list."""
        return (
            (self.warn_below is not None and value < self.warn_below)
            or (self.warn_beyond is not None and abs(value) >= self.warn_beyond)
            or (self.of_list and value < n_listed)
        )


def stat(title: str | None, form: str, *, phrase: str, page: Callable[[Any, int], str], **about: Any) -> Any:
    """A field of :class:`DirectionStats` that is shown; keywords are the attributes of :class:`Stat`."""
    return field(metadata={"stat": Stat(title, form, phrase, page, **about)})


@dataclass(frozen=True)
class DirectionStats:
    """The numbers of one direction: a field is a key of the manifest, a column of the table and a figure of the page.

    None where a number is unknown.
    """

    index: int
    eigenvalue: float | None
    bound: str | None  # "rigorous" or "estimated"
    subspace: tuple[int, ...]
    explained_variance_ratio: float | None = stat(
        "variance", "{:.1%}", phrase="of the variance", page=lambda value, _: percent(value), heading="Variance"
    )
    residual: float | None = stat("residual", "{:.0e}", phrase="residual", page=lambda value, _: f"{value:.1e}")
    angle_bound: float | None = stat(
        None, "{:.1e}", phrase="angle error, {bound}", page=lambda value, _: f"≤ {value:.1e}"
    )
    split_half: float | None = stat(
        "halves",
        "{:.2f}",
        phrase="halves agree",
        page=lambda value, _: f"{value:.2f}",
        heading="Halves agree",
        help="|cos| between the directions of two random halves of the rows",
        warn_below=REPRODUCIBLE,
        absent="–",
    )
    norm_correlation: float | None = stat(
        "norm",
        "{:+.2f}",
        phrase="correlation with row norm",
        page=lambda value, _: f"{value:+.2f}",
        help="correlation of the raw cosines with the row norm",
        warn_beyond=NORM_CORRELATED,
    )
    shared_top: float | None = stat(
        "shared",
        "{:g}",
        phrase="rows in both rankings",
        page=lambda value, n_listed: f"{value:g} of {n_listed}",
        help="rows that the raw and the centred list have in common, of each end",
    )
    certified: dict[str, int] = stat(
        "certified +/-",
        "{}",
        phrase="certified, {side}",
        page=lambda value, n_listed: f"{value} of {n_listed}",
        help="rows of each end that no error of the directions can change",
        of_list=True,
        by_side=True,
    )

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> DirectionStats:
        """The numbers as a manifest holds them; unknown keys are left out, missing ones are None."""
        found: dict[str, Any] = {one.name: entry.get(one.name) for one in fields(cls)}
        found |= {"certified": entry.get("certified") or {}, "subspace": tuple(entry.get("subspace") or ())}
        return cls(**found)

    def as_json(self) -> dict[str, Any]:
        """The numbers as a manifest holds them."""
        return {**asdict(self), "subspace": list(self.subspace)}


SHOWN_STATS: dict[str, Stat] = {
    one.name: one.metadata["stat"] for one in fields(DirectionStats) if "stat" in one.metadata
}


class Diagnostic(TypedDict):
    """A property of the data or of the result that the plain method hides: one sentence and its numbers."""

    kind: str
    text: str
    values: dict[str, Any]


class Manifest(TypedDict, total=False):
    """``manifest.json``.

    What a job was asked and on which store stands there from its beginning, stages from wherever it has ended, what was
    found when ``status`` is ``done``.
    """

    format_version: int
    command: str  # discover or apply
    status: str  # running, done, stopped or failed
    config: dict[str, Any]  # all options by name, and what identifies given directions
    store: dict[str, Any]  # path, fingerprint, shape, dtype, chunk_rows, what its attributes say
    versions: dict[str, str]
    machine: dict[str, Any]
    plan: dict[str, Any]
    attempts: int
    resumptions: int
    failure: str  # of a failed job: its message
    stopped: dict[str, Any]  # of a stopped job: where, by what, whether with a checkpoint
    # effort
    stages: list[dict[str, Any]]
    seconds: float
    reads: float
    bytes_read: int
    peak_memory_bytes: int
    repeated: dict[str, Any]  # seconds and rows that killed attempts had done after their last checkpoint
    processes: list[dict[str, Any]]
    gpu: dict[str, Any]
    # findings
    solver: dict[str, Any]
    rows: dict[str, Any]
    total_variance: float
    diagnostics: list[Diagnostic]
    layers: dict[str, Any]
    directions: list[dict[str, Any]]  # DirectionStats.as_json


def direction_stats(manifest: Manifest) -> tuple[DirectionStats, ...]:
    """The numbers of every direction."""
    return tuple(map(DirectionStats.from_json, manifest["directions"]))
