"""The examples of each direction: the traces that a label is made from, and those that it is scored on.

Along each end, from the most extreme inwards: a near-duplicate of an earlier trace is left out; the first ``top`` that
remain are shown; of the rest, traces that share a group with any shown trace of either end are left out, and the
remainder is held out. Every trace that is left out is counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skillaxes.errors import UsageError
from skillaxes.labeling.selection import ORDER, DirectionRows, Ranked, Selection, read_selection
from skillaxes.labeling.terms import count
from skillaxes.labeling.texts import NEAR_DUPLICATE, SKETCH, Features, Reader, Template, Trace, window_of
from skillaxes.labeling.traces import read_traces

if TYPE_CHECKING:
    from skillaxes.labeling.options import LabelOptions
    from skillaxes.progress import Progress

SAME_FAMILY = 0.5  # share of word triples, of the union, that the masked prompts of one template have at least
BACKGROUND_ROWS = 2000  # texts at large, for the prior of the keyword statistic
REFERENCE_ROWS = 300  # texts at large, as examples of neither group


@dataclass(frozen=True)
class SideExamples:
    """The examples of one end of a direction.

    Attributes
    ----------
    samples : disjoint lists of shown traces; the label is made from the first
    held_out : the traces that scores are computed on
    disjoint : those of ``held_out`` that share no template (or value of ``disjoint_by``) with any shown trace
    left_out : reason -> number of traces left out for it
    """

    samples: tuple[tuple[Trace, ...], ...]
    held_out: tuple[Trace, ...]
    disjoint: tuple[Trace, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[Trace, ...]:
        """The traces that the label is made from."""
        return self.samples[0]


@dataclass(frozen=True)
class DirectionExamples:
    """The examples of one direction.

    Attributes
    ----------
    kind, index : as in :class:`skillaxes.labeling.selection.DirectionRows`
    positive, negative : of the two ends
    between : traces of neither end that share no group with a shown one
    """

    kind: str
    index: int
    positive: SideExamples
    negative: SideExamples
    between: tuple[Trace, ...]


@dataclass(frozen=True)
class Examples:
    """The input of a labeling job, divided.

    Attributes
    ----------
    selection : the rows behind the examples
    components, randoms, orders : examples of each component, random direction and random order of the rows
    features : row -> features, for the sample and for the ends of the components
    at_large : a seeded sample of all texts
    window : the window as a record holds it
    notes : remarks for the user, one sentence each
    """

    selection: Selection
    components: tuple[DirectionExamples, ...]
    randoms: tuple[DirectionExamples, ...]
    orders: tuple[DirectionExamples, ...]
    features: Mapping[int, Features]
    at_large: tuple[Trace, ...]
    window: dict[str, Any]
    notes: tuple[str, ...]

    def background(self) -> Counter[str]:
        """Term -> number of texts at large that hold it: the prior of the keyword statistic."""
        return count(trace.terms for trace in self.at_large)

    def reference(self) -> tuple[Trace, ...]:
        """Some texts at large, as examples of neither end of anything."""
        return self.at_large[:REFERENCE_ROWS]


def load_examples(run_dir: Path, traces: str, options: LabelOptions, progress: Progress) -> Examples:
    """Read the selection and the texts of its rows, and split them into examples.

    Raises
    ------
    RunFolderError, TracesError : see :func:`read_selection`, :func:`read_traces`
    UsageError : more shown traces than the selection keeps
    """
    selection = read_selection(run_dir)
    top = options.top or selection.top
    lengths = [len(end.rows) for d in selection.components for end in (d.positive, d.negative)]
    least_depth, depth = min(lengths), max(lengths)
    if top * options.samples > least_depth:
        several = f" --samples {options.samples}" if options.samples > 1 else ""
        raise UsageError(
            f"--top {top}{several}: needs {top * options.samples} rows a side, and the selection keeps {least_depth}; "
            f"type --top {max(1, least_depth // options.samples)} or run skillaxes discover with a larger --pool"
        )
    sample_rows = selection.samples[0].rows
    randoms = selection.randoms[: options.n_baselines]
    orders = tuple(
        random_order(sample_rows, depth, index, options.seed)
        for index in range(options.n_baselines if len(sample_rows) >= 2 * top else 0)
    )
    directions = (*selection.components, *randoms, *orders)
    chosen = {row for direction in directions for row in _rows(direction)}
    random = np.random.default_rng((options.seed, 3))
    at_large = random.permutation(sample_rows)[:BACKGROUND_ROWS].tolist()
    with_text = chosen.union(at_large)
    with_features = {row for direction in selection.components for row in _rows(direction)}.union(sample_rows.tolist())

    window, about_window = window_of(options.window, selection.token_range)
    named = tuple(dict.fromkeys(name for name in (options.group_by, options.disjoint_by, *options.confound) if name))
    reader = Reader(Template(options.template), options.text, window, options.group_by, named)
    texts: dict[int, Trace] = {}
    features: dict[int, Features] = {}

    def take(row: int, record: Mapping[str, Any]) -> None:
        if row in with_text:
            texts[row] = reader.trace(row, selection.trace_ids.get(row), record)
        if row in with_features:
            features[row] = reader.features(row, record)

    read_traces(
        traces,
        sorted(with_text | with_features),
        take,
        n_rows=selection.n_rows,
        ids=selection.trace_ids,
        progress=progress,
    )
    split = partial(split_examples, traces=texts, top=top, samples=options.samples, disjoint_by=options.disjoint_by)
    notes = [about_window] if not window.known else []
    if not randoms and options.n_baselines:
        notes.append("the selection holds no random directions: scores go without that baseline")
    return Examples(
        selection=selection,
        components=tuple(map(split, selection.components)),
        randoms=tuple(map(split, randoms)),
        orders=tuple(map(split, orders)),
        features=features,
        at_large=tuple(texts[row] for row in at_large),
        window={"choice": options.window, "tokens": window.stop, "known": window.known, "text": about_window},
        notes=tuple(notes),
    )


def _rows(direction: DirectionRows) -> Iterable[int]:
    for ranked in (direction.positive, direction.negative, direction.middle):
        yield from ranked.rows.tolist()


def split_examples(
    direction: DirectionRows,
    traces: Mapping[int, Trace],
    *,
    top: int,
    samples: int = 1,
    disjoint_by: str | None = None,
) -> DirectionExamples:
    """Split the ends of a direction into shown and held-out traces.

    Parameters
    ----------
    traces : row -> trace, for every row of the direction
    top : traces to show a side
    samples : disjoint lists of shown traces; all of them count as shown
    disjoint_by : field whose shown values ``disjoint`` avoids; None for the template of the prompt
    """
    n_shown = top * samples
    positive, positive_duplicates, positive_empty = _distinct(direction.positive, traces)
    negative, negative_duplicates, negative_empty = _distinct(direction.negative, traces)
    shown = _ShownTraces(positive[:n_shown] + negative[:n_shown], disjoint_by)

    def side(ranked: list[Trace], duplicates: int, empty: int) -> SideExamples:
        kept = []
        same_group = same_text = 0
        for trace in ranked[n_shown:]:
            if shown.has_group(trace):
                same_group += 1
            elif shown.has_near_duplicate(trace):
                same_text += 1
            else:
                kept.append(trace)
        return SideExamples(
            # Dealt out in turn, so that every sample reaches equally far in.
            samples=tuple(tuple(ranked[:n_shown][i::samples]) for i in range(samples)),
            held_out=tuple(kept),
            disjoint=tuple(trace for trace in kept if not shown.same_template(trace)),
            left_out={"near_duplicate": duplicates + same_text, "group_shown": same_group, "no_text": empty},
        )

    between = (traces[row] for row in direction.middle.rows.tolist() if row in traces and row not in shown.rows)
    return DirectionExamples(
        direction.kind,
        direction.index,
        side(positive, positive_duplicates, positive_empty),
        side(negative, negative_duplicates, negative_empty),
        tuple(t for t in between if t.text and not shown.has_group(t) and not shown.has_near_duplicate(t)),
    )


class _ShownTraces:
    """The shown traces of a direction, and how another trace may be related to them."""

    def __init__(self, traces: Sequence[Trace], disjoint_by: str | None) -> None:
        self.rows = {trace.row for trace in traces}
        self._traces = traces
        self._texts = _Texts(traces)
        self._groups = {trace.group for trace in traces}
        self._templates = {trace.template for trace in traces}
        self._disjoint_by = disjoint_by
        self._values = {trace.fields[disjoint_by] for trace in traces} if disjoint_by else set()

    def has_group(self, trace: Trace) -> bool:
        return trace.group in self._groups

    def has_near_duplicate(self, trace: Trace) -> bool:
        return self._texts.has_near_duplicate(trace)

    def same_template(self, trace: Trace) -> bool:
        """Whether a shown trace has the same value of ``disjoint_by``, or without it the same template."""
        if self._disjoint_by:
            return trace.fields[self._disjoint_by] in self._values
        return trace.template in self._templates or any(
            alike(trace.family, other.family, SAME_FAMILY) for other in self._traces
        )


class _Texts:
    """Texts with an index of near-duplicates, so that not every pair is compared.

    Two sets that share most of their members share one of their first few in any common order (prefix filtering,
    Chaudhuri et al. 2006).
    """

    def __init__(self, traces: Sequence[Trace] = ()) -> None:
        self._by_hash: dict[int, list[Trace]] = defaultdict(list)
        for trace in traces:
            self.add(trace)

    def add(self, trace: Trace) -> None:
        for value in trace.prefix_hashes:
            self._by_hash[value].append(trace)

    def has_near_duplicate(self, trace: Trace) -> bool:
        """Whether a near-duplicate of ``trace`` was added."""
        found = {other.row: other for value in trace.prefix_hashes for other in self._by_hash.get(value, ())}
        return any(alike(trace.shingles, other.shingles, NEAR_DUPLICATE) for other in found.values())


def _distinct(ranked: Ranked, traces: Mapping[int, Trace]) -> tuple[list[Trace], int, int]:
    """The traces of one end without near-duplicates; the number of these; the number of traces without text."""
    kept: list[Trace] = []
    texts = _Texts()
    duplicates = empty = 0
    for row in ranked.rows.tolist():
        trace = traces[row]
        if not trace.text.strip():
            empty += 1
        elif texts.has_near_duplicate(trace):
            duplicates += 1
        else:
            kept.append(trace)
            texts.add(trace)
    return kept, duplicates, empty


def alike(a: frozenset[int], b: frozenset[int], least: float) -> bool:
    """Whether two sets share at least ``least`` of their union; estimated where they are full sketches."""
    if not a or not b:
        return a == b
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    if len(small) < least * len(large):
        return False
    shared = len(small & large)
    if len(large) < SKETCH:
        return shared >= least * (len(a) + len(b) - shared)
    if shared < least * SKETCH:  # most pairs end here, before anything is sorted
        return False
    smallest = nsmallest(SKETCH, a | b)
    return sum(value in a and value in b for value in smallest) >= least * SKETCH


def random_order(rows: np.ndarray, depth: int, index: int, seed: int) -> DirectionRows:
    """A direction without meaning: the two ends of a random order of ``rows``, ``depth`` rows each."""
    order = np.random.default_rng((seed, 7, index)).permutation(rows)
    depth = min(depth, len(order) // 2)

    def ranked(chosen: np.ndarray) -> Ranked:
        nothing = np.zeros(len(chosen), dtype=np.float32)
        return Ranked(chosen, nothing, nothing)

    return DirectionRows(
        ORDER,
        index,
        ranked(order[:depth]),
        ranked(order[::-1][:depth]),
        ranked(order[depth : len(order) - depth][:depth]),
    )
