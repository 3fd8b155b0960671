"""The values that the page's template shows, made from a run folder's contents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skillaxes import memory
from skillaxes.progress import format_duration
from skillaxes.report.charts import Chart, histogram, scree
from skillaxes.report.figures import COLUMNS, Figure, figure, figures
from skillaxes.report.filters import percent
from skillaxes.run_folder.contents import Contents, Direction, ListedRow
from skillaxes.run_folder.labels import FAILED, LABELLED, UNINTERPRETABLE, WORDS
from skillaxes.run_folder.schema import CENTERED_COSINE, NEGATIVE, POSITIVE, RANKINGS, RAW_COSINE, SIDES, Stat

_N_OPEN = 3  # examples of an end that are shown at once
_CAUTION_HEADINGS = {
    "mean_direction": "Mean direction",
    "layer_scale": "Layer scale",
    "norm": "Row norm",
    "length": "Length",
    "stability": "Stability",
    "zero_rows": "Rows of zeros",
    "bad_rows": "Rows left out",
    "not_converged": "Not converged",
}


@dataclass(frozen=True)
class Caution:
    """One sentence to read before the directions."""

    heading: str
    text: str


@dataclass(frozen=True)
class ScoreLine:
    """A score of the label or of a baseline, from 0 to 1 with chance at one half; the bounds are None where unknown."""

    name: str
    of_label: bool
    value: float
    low: float | None
    high: float | None

    @property
    def has_bounds(self) -> bool:
        return self.low is not None and self.high is not None


class LabelView:
    """One record of ``labels.jsonl``; a field that it lacks is empty."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record
        self.status = str(record.get("status", "–"))
        self.is_labelled = self.status == LABELLED
        self.is_failed = self.status == FAILED
        self.is_uninterpretable = self.status == UNINTERPRETABLE
        self.is_words = record.get("kind") == WORDS
        self.by = " ".join(str(record[name]) for name in ("labeler", "model") if record.get(name))
        self.failure: Mapping[str, Any] = {"kind": FAILED, "message": "", **self._part("failure")}
        self.axes = [str(axis) for axis in record.get("axes") or []]
        self.analysis = record.get("analysis")
        self.verdict = str(self._part("verdict").get("text", "–"))
        self.survives = bool(self._part("verdict").get("survives"))
        self.pair_accuracy: float | None = self._part("scores", "pairs").get("accuracy")
        self.agreement = self._part("agreement")
        self.detection = self._part("scores", "detection")
        self.scores = self._score_lines()
        self.n_rows_of_confounds = self._part("confounds").get("rows", 0)
        self.spearman = self._part("confounds", "spearman")
        self.categories = self._part("confounds", "categories")
        self.confounded_with = self._part("confounds").get("confounded_with") or []

    def keywords(self, side: str) -> Sequence[str]:
        """The words for one side; none unless the direction is labelled."""
        return (self._part("keywords").get(side) or []) if self.is_labelled else []

    def attributes(self, side: str) -> Sequence[str]:
        """A language model's summary of the texts of one side."""
        return self._part("attributes").get(side) or []

    def shown(self, side: str) -> dict[int, Mapping[str, Any]]:
        """The traces of one side that the labeler has read, by row."""
        return {entry["row"]: entry for entry in self._part("shown").get(side) or []}

    def _part(self, *path: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._record
        for name in path:
            found = found.get(name) or {}
        return found

    def _score_lines(self) -> list[ScoreLine]:
        lines = []
        for name, of_label, path in (
            ("this label", True, ("scores", "pairs")),
            ("text length alone", False, ("baselines", "length")),
            ("random directions, 95%", False, ("baselines", "random_directions")),
            ("random orders, 95%", False, ("baselines", "random_orders")),
            ("on other kinds of text", True, ("scores", "disjoint")),
            ("length on those", False, ("baselines", "length_disjoint")),
        ):
            score = self._part(*path)
            value = score.get("accuracy", score.get("p95"))
            if value is not None:
                lines.append(ScoreLine(name, of_label, value, score.get("low"), score.get("high")))
        return lines


@dataclass(frozen=True)
class Example:
    """A trace at one end of a direction: a listed row, or one below the list that the labeler has read."""

    row: int
    score: float | None
    trace_id: str | None
    is_listed: bool
    is_certified: bool
    excerpt: str


@dataclass(frozen=True)
class End:
    """One side of a direction: the traces to show at once, and those to unfold."""

    side: str
    keywords: Sequence[str]
    attributes: Sequence[str]
    examples: list[Example]
    more_examples: list[Example]


@dataclass(frozen=True)
class DirectionView:
    """One direction: a row of the overview and a section.

    Attributes
    ----------
    label : its label, or the failure in its place; that of an empty record where it has none
    has_label : whether there is a record
    columns : its numbers in the overview, one for each of COLUMNS
    figures : its numbers in the section
    layers : ids of the layers in use with their shares of its energy; empty where fewer than two are known
    """

    index: int
    has_label: bool
    label: LabelView
    columns: list[Figure]
    figures: list[Figure]
    notes: list[str]
    histograms: list[Chart]
    layer_energy: Sequence[float]
    layers: list[tuple[Any, float]]
    ends: list[End]


@dataclass(frozen=True)
class Stage:
    """One stage of the job, with the bytes that it has read."""

    name: str
    seconds: float
    bytes: int
    peak_memory_bytes: int


@dataclass(frozen=True)
class Page:
    """Everything on the page.

    Attributes
    ----------
    facts : where the run comes from; None or empty where unknown
    stats : the columns of the overview
    spectrum, total_share : the directions' shares of the variance
    layer_ids, layer_variance : the layers in use and their shares of the variance; empty where unknown
    details : configuration and store as JSON
    """

    title: str
    run_dir: str
    n_rows: int
    n_columns: int
    ranking: str
    facts: dict[str, Any]
    cautions: list[Caution]
    is_labelled: bool
    stats: Sequence[Stat]
    spectrum: Chart
    total_share: float
    layer_ids: Sequence[Any]
    layer_variance: Sequence[float]
    directions: list[DirectionView]
    versions: str
    reasons: str
    stages: list[Stage]
    details: str


def make_page(contents: Contents) -> Page:
    """The page of a run."""
    manifest = contents.manifest
    store, layers = manifest.get("store", {}), manifest.get("layers") or {}
    ratios = [direction.stats.explained_variance_ratio or 0.0 for direction in contents.directions]
    model = store.get("model")
    return Page(
        title=f"Skill axes of {model}" if model else "Skill axes",
        run_dir=str(contents.run_dir),
        n_rows=manifest.get("rows", {}).get("ranked", store.get("n_rows", 0)),
        n_columns=(manifest.get("plan") or {}).get("n_columns") or store.get("n_features") or 0,
        ranking=contents.rank_by.replace("-", " "),
        facts=_facts(manifest),
        cautions=[_caution(entry) for entry in manifest.get("diagnostics") or []],
        is_labelled=contents.is_labelled,
        stats=tuple(COLUMNS.values()),
        spectrum=scree(ratios),
        total_share=sum(ratios),
        layer_ids=layers.get("ids") or [],
        layer_variance=layers.get("variance_share") or [],
        directions=[_direction(direction, contents) for direction in contents.directions],
        versions=", ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()),
        reasons="; ".join((manifest.get("solver") or {}).get("reasons") or []),
        stages=[_stage(stage) for stage in manifest.get("stages") or []],
        details=json.dumps({name: manifest.get(name) for name in ("config", "store")}, indent=1),
    )


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    store, solver, config = (manifest.get(name) or {} for name in ("store", "solver", "config"))
    shape = " × ".join(f"{extent:,}" for extent in store.get("shape", []))
    residual = solver.get("max_residual")
    facts = {
        "Store": store.get("path"),
        "Shape": f"{shape} {store.get('dtype', '')}".strip(),
        "Model": " ".join(str(part) for part in (store.get("model"), store.get("revision")) if part),
        "Taken at": store.get("hook"),
        "Pooling": store.get("pooling"),
        "Tokens seen": _token_range(store.get("token_range")),
        "Layers in use": ", ".join(map(str, (manifest.get("layers") or {}).get("ids") or [])),
        "Solver": f"{solver.get('name')}, {manifest.get('reads', 0):.3g} reads",
        "Largest residual": None if residual is None else f"{residual:.1e} of {solver.get('tolerance'):.0e} allowed",
        "Machine": _machine(manifest),
    }
    if config.get("scale", "none") != "none":
        facts["Columns scaled by"] = config["scale"]
    return facts


def _token_range(token_range: object) -> str | None:
    if isinstance(token_range, list):
        first, stop = token_range
        return f"{first} to the end" if stop is None else f"{first} to {stop - 1}"
    return None if token_range is None else str(token_range)


def _machine(manifest: Mapping[str, Any]) -> str:
    parts = [str((manifest.get("machine") or {}).get("device") or "")]
    if manifest.get("seconds"):
        parts.append(format_duration(manifest["seconds"]))
    if manifest.get("peak_memory_bytes"):
        parts.append(f"{memory.show(manifest['peak_memory_bytes'])} at most")
    return ", ".join(part for part in parts if part)


def _caution(announcement: Mapping[str, Any]) -> Caution:
    kind, text = str(announcement.get("kind", "")), str(announcement.get("text", ""))
    sentence = text[:1].upper() + text[1:] + ("" if text.endswith((".", "!")) else ".")
    return Caution(_CAUTION_HEADINGS.get(kind, kind.replace("_", " ").capitalize()), sentence)


def _stage(stage: Mapping[str, Any]) -> Stage:
    sizes = (stage.get(name) or 0 for name in ("bytes", "peak_memory_bytes"))
    return Stage(str(stage.get("name")), stage.get("seconds") or 0.0, *sizes)


def _direction(direction: Direction, contents: Contents) -> DirectionView:
    layer_ids = (contents.manifest.get("layers") or {}).get("ids") or []
    label = LabelView(direction.label or {})
    return DirectionView(
        index=direction.index,
        has_label=bool(direction.label),
        label=label,
        columns=[figure(name, direction) for name in COLUMNS],
        figures=figures(direction),
        notes=_notes(direction, label),
        histograms=_histograms(direction, contents),
        layer_energy=direction.layer_energy,
        layers=list(zip(layer_ids, direction.layer_energy, strict=False)) if len(layer_ids) > 1 else [],
        ends=[_end(direction, label, side, contents.rank_by) for side in SIDES],
    )


def _notes(direction: Direction, label: LabelView) -> list[str]:
    notes = []
    group = direction.stats.subspace
    if len(group) > 1:
        others = ", ".join(str(index) for index in group if index != direction.index)
        notes.append(
            f"Its eigenvalue cannot be told apart from that of direction {others}: read directions {group[0]} to "
            f"{group[-1]} as one subspace. Each is computed exactly, yet another sample would turn them within it."
        )
    elif figure("split_half", direction).is_doubtful:
        notes.append("Sample-dependent: two random halves of the rows give two different directions.")
    if label.agreement.get("overlap") is not None:
        n_samples, overlap = label.agreement["samples"], label.agreement["overlap"]
        notes.append(f"Labels from {n_samples} disjoint samples share {percent(overlap)} of their words.")
    return notes


def _histograms(direction: Direction, contents: Contents) -> list[Chart]:
    """Of the score that rows are ranked by, and of another one beside it; none where the run keeps no scores."""
    if not contents.histograms:
        return []
    rank_by = contents.rank_by
    charts = []
    for name in [rank_by, *(name for name in (CENTERED_COSINE, RAW_COSINE) if name != rank_by)][:2]:
        score = RANKINGS[name]
        low, high = _thresholds(direction, name) if name == rank_by and score.listed_alike else (None, None)
        title = f"{score.title}, what rows are ranked by" if name == rank_by else score.title
        charts.append(histogram(title, contents.histograms[name][direction.index], low, high))
    return charts


def _thresholds(direction: Direction, rank_by: str) -> tuple[float | None, float | None]:
    """The least extreme listed score of either side."""
    scores = {
        side: [score for row in direction.ends[side] if (score := row.score(rank_by)) is not None] for side in SIDES
    }
    return max(scores[NEGATIVE], default=None), min(scores[POSITIVE], default=None)


def _end(direction: Direction, label: LabelView, side: str, rank_by: str) -> End:
    listed, shown = {row.row: row for row in direction.ends[side]}, label.shown(side)
    # A labeler is shown no near-duplicates, so that it reads rows beyond the list too.
    rows = [*listed, *(row for row in shown if row not in listed)]
    examples = [_example(row, listed.get(row), shown.get(row, {}), rank_by) for row in rows]
    examples.sort(key=lambda example: not example.excerpt)
    return End(side, label.keywords(side), label.attributes(side), examples[:_N_OPEN], examples[_N_OPEN:])


def _example(row: int, listed: ListedRow | None, shown: Mapping[str, Any], rank_by: str) -> Example:
    excerpt = str(shown.get("excerpt") or "").strip()
    return Example(
        row=row,
        score=listed.score(rank_by) if listed else shown.get("score"),
        trace_id=listed.trace_id if listed else shown.get("trace_id"),
        is_listed=listed is not None,
        is_certified=listed is not None and listed.certified,
        excerpt=excerpt + "…" if excerpt and shown.get("excerpt_cut") else excerpt,
    )
