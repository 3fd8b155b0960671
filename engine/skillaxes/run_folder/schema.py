"""Schema of a run folder, format version 2: names of files, columns of tables, figures of a direction, manifest.

Packages that only read or write run folders (labeling, report, export) depend on this module and on no solver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT_VERSION = 2
# Keys and columns of version 1 that have another name in version 2, which version 1 is read as.
RENAMED = {"announcements": "diagnostics", "settled": "certified", "handed_over": "bytes_sent"}
MANIFEST = "manifest.json"
DIRECTIONS = "directions.safetensors"
SCORES = "scores.zarr"
TOPK = "topk.parquet"
SELECTION = "selection.parquet"
LABELS = "labels.jsonl"
REPORT = "report.html"
CHECKPOINT = "checkpoint"
DISCOVER, APPLY = "discover", "apply"  # commands that write run folders
POSITIVE = "positive"
NEGATIVE = "negative"
SIDES = (POSITIVE, NEGATIVE)
RAW_COSINE = "raw-cosine"
CENTERED_COSINE = "centered-cosine"
PROJECTION = "projection"


class ScoreBlock(NamedTuple):
    """Some rows of ``scores.zarr``, with the mean and the deviation along their k directions; all float32.

    Attributes
    ----------
    projection : ndarray of shape (n, k), of the rows less the mean
    norm, centered_norm : ndarrays of shape (n,), of the rows and of the rows less the mean
    along_mean : ndarray of shape (k,), projection of the mean row
    deviation : ndarray of shape (k,), standard deviation of the projections
    """

    projection: NDArray[np.float32]
    norm: NDArray[np.float32]
    centered_norm: NDArray[np.float32]
    along_mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


class StoredScore(NamedTuple):
    """A score that ranks rows, in ``topk.parquet`` and from ``scores.zarr``.

    Attributes
    ----------
    title : its name on the page, with the unit of ``values``
    topk_column : its column of ``topk.parquet``
    values : scores of a block of rows, of shape (n, k); NaN or infinity for rows without one
    limit : histograms cover ``-limit`` to ``limit``
    listed_alike : whether ``topk_column`` has the unit of ``values``
    """

    title: str
    topk_column: str
    values: Callable[[ScoreBlock], NDArray[np.float32]]
    limit: float
    listed_alike: bool


# skillaxes.ranking.scores computes each from kept projections.
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
    """A column of a table: its name, the alias of its arrow type, and whether it may be null."""

    name: str
    type: str
    nullable: bool = False


# Plain tuples, since pyarrow takes long to import: run_folder.tables.arrow_schema makes schemas of them.
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
SHOWN = "shown"  # the first `top` positions of a side, which a labeler may see
HELD_OUT = "held_out"  # the positions behind them, up to `pool`, on which labels are scored
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
#   top, pool     int            positions of a side in the role shown, and in both roles
#   split_half    [float]        |cos| between halves for each component; null where unknown
#   token_range   any            part of the text that the row is computed from; null where unknown
#   store         {fingerprint, model, revision, hook, pooling}   as far as known
SELECTION_META = b"skillaxes"

REPRODUCIBLE = 0.9  # |cos| between the directions of two random halves, below which a direction is sample-dependent
NORM_CORRELATED = 0.3  # |correlation| with the row norm, from which on a direction is reported


def percent(share: float) -> str:
    """``"31%"``, ``"4.2%"``, ``"0.31%"``."""
    value = 100 * share
    return f"{value:.0f}%" if abs(value) >= 10 else f"{value:.1f}%" if abs(value) >= 1 else f"{value:.2g}%"


@dataclass(frozen=True)
class Stat:
    """Presentation of a figure of a direction, in the terminal's table and on the page.

    Attributes
    ----------
    title : head of its column in the table; None for no column
    form : format string in the table
    phrase : text after the figure on the page; may hold ``{side}`` and ``{bound}``
    page : text of the figure on the page, given its value and the length of its list
    heading : head of its column in the overview of the page; None for no column
    help : one sentence for the legends, without a full stop
    warn_below, warn_beyond : values below the first, or magnitudes from the second on, need a warning
    of_list : whether it counts members of a list; fewer than all need a warning
    by_side : whether it holds a value for each side
    absent : text on the page without a value; None to omit the figure
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
        """Text in the table; a dash for an unknown figure."""
        if self.by_side:
            return " / ".join("–" if one is None else self.form.format(one) for one in map((value or {}).get, SIDES))
        return "–" if value is None else self.form.format(value)

    def warns(self, value: float, n_listed: int) -> bool:
        """Whether a value needs a warning, for a list of ``n_listed`` rows."""
        return (
            (self.warn_below is not None and value < self.warn_below)
            or (self.warn_beyond is not None and abs(value) >= self.warn_beyond)
            or (self.of_list and value < n_listed)
        )


def stat(title: str | None, form: str, *, phrase: str, page: Callable[[Any, int], str], **about: Any) -> Any:
    """A shown field of :class:`DirectionStats`; keyword arguments are the attributes of :class:`Stat`."""
    return field(metadata={"stat": Stat(title, form, phrase, page, **about)})


@dataclass(frozen=True)
class DirectionStats:
    """Figures of one direction; None for unknown ones.

    A field is a key of the manifest, a column of the table and a figure of the page.
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
        """The figures of an entry of a manifest; unknown keys are ignored, missing ones are None."""
        found: dict[str, Any] = {one.name: entry.get(one.name) for one in fields(cls)}
        found |= {"certified": entry.get("certified") or {}, "subspace": tuple(entry.get("subspace") or ())}
        return cls(**found)

    def as_json(self) -> dict[str, Any]:
        """The figures as an entry of a manifest."""
        return {**asdict(self), "subspace": list(self.subspace)}


SHOWN_STATS: dict[str, Stat] = {
    one.name: one.metadata["stat"] for one in fields(DirectionStats) if "stat" in one.metadata
}


class Diagnostic(TypedDict):
    """A property of the data or of the result: one sentence and its numbers."""

    kind: str
    text: str
    values: dict[str, Any]


class Manifest(TypedDict, total=False):
    """``manifest.json``.

    A job writes options and store when it begins, stages when it ends in any way, and findings when it is done.
    """

    format_version: int
    command: str  # DISCOVER or APPLY
    status: str  # running, done, stopped or failed
    config: dict[str, Any]  # all options by name, and the digest of given directions
    store: dict[str, Any]  # path, fingerprint, shape, dtype, chunk_rows and attributes
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
    repeated: dict[str, Any]  # seconds and rows of killed attempts after their last checkpoint
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
    """The figures of every direction."""
    return tuple(map(DirectionStats.from_json, manifest["directions"]))
