"""Contents of a run folder: names of files, columns of tables, numbers of a direction, the manifest. Format version 2.

Rooms that only read or write run folders (labeling, report, export) depend on this module and on no solver. Version 1
called ``certified`` ``settled`` and ``bytes_sent`` ``handed_over``; it is read as version 2.
"""

from __future__ import annotations

from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, NamedTuple, TypedDict

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
RANKINGS = (RAW_COSINE, CENTERED_COSINE, PROJECTION)


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


@dataclass(frozen=True)
class Stat:
    """How a number of a direction is shown.

    Attributes
    ----------
    title : head of its column, name of its figure
    form : format string
    help : one sentence for the legend; empty where the title says it
    warn_below, warn_beyond : the value, or its magnitude, from which on it needs a warning
    in_table : whether the terminal's table has it; the page shows all
    """

    title: str
    form: str
    help: str = ""
    warn_below: float | None = None
    warn_beyond: float | None = None
    in_table: bool = True

    def text(self, value: Any) -> str:
        """The number as it is shown; a dash where it is unknown."""
        if isinstance(value, dict):
            return " / ".join("–" if value.get(side) is None else self.form.format(value[side]) for side in SIDES)
        return "–" if value is None else self.form.format(value)

    def warns(self, value: Any) -> bool:
        """Whether the value needs a warning."""
        below = self.warn_below is not None and value is not None and value < self.warn_below
        return below or (self.warn_beyond is not None and value is not None and abs(value) >= self.warn_beyond)


def stat(title: str, form: str, **about: Any) -> Any:
    """A field of :class:`DirectionStats` that is shown; keywords are the attributes of :class:`Stat`."""
    return field(metadata={"stat": Stat(title, form, **about)})


@dataclass(frozen=True)
class DirectionStats:
    """The numbers of one direction: a field is a key of the manifest, a column of the table and a figure of the page.

    None where a number is unknown.
    """

    index: int
    eigenvalue: float | None
    bound: str | None  # "rigorous" or "estimated"
    subspace: tuple[int, ...]
    explained_variance_ratio: float | None = stat("variance", "{:.1%}")
    residual: float | None = stat("residual", "{:.0e}")
    angle_bound: float | None = stat("angle error", "<= {:.1e}", in_table=False)
    split_half: float | None = stat(
        "halves",
        "{:.2f}",
        warn_below=REPRODUCIBLE,
        help="|cos| between the directions of two random halves of the rows",
    )
    norm_correlation: float | None = stat(
        "norm", "{:+.2f}", warn_beyond=NORM_CORRELATED, help="correlation of the raw cosines with the row norm"
    )
    shared_top: float | None = stat(
        "shared", "{:g}", help="rows that the raw and the centred list have in common, of each end"
    )
    certified: dict[str, int] = stat(
        "certified +/-", "{}", help="rows of each end that no error of the directions can change"
    )

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> DirectionStats:
        """The numbers as a manifest holds them; unknown keys are left out, missing ones are None."""
        found: dict[str, Any] = {one.name: entry.get(one.name) for one in fields(cls)}
        found |= {"certified": entry.get("certified") or {}, "subspace": tuple(entry.get("subspace") or ())}
        return cls(**found)

    def as_json(self) -> dict[str, Any]:
        """The numbers as a manifest holds them."""
        return asdict(self)


def shown_stats(*, in_table: bool = False) -> tuple[tuple[str, Stat], ...]:
    """Name and :class:`Stat` of each number of a direction that is shown, in order."""
    return tuple(
        (one.name, _stat(one)) for one in fields(DirectionStats) if "stat" in one.metadata and
        (_stat(one).in_table or not in_table)
    )


def _stat(one: Field[Any]) -> Stat:
    return one.metadata["stat"]


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
    traffic: list[dict[str, Any]]
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
