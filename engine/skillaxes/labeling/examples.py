"""Which traces a label is made from and which it is scored on.

Along each end, from the most extreme inwards: a near-duplicate of a trace that was already taken is left out; the
first ``top`` that remain are shown; of the rest, what shares a group with any shown trace of either end is left out,
and the remainder is held out. Every trace that is left out is counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.errors import UsageError
from skillaxes.labeling.options import LabelOptions
from skillaxes.labeling.selection import DirectionRows, Ranked, Selection, read_selection
from skillaxes.labeling.terms import count
from skillaxes.labeling.texts import NEAR_DUPLICATE, SKETCH, Features, Reader, Template, Trace, window_of
from skillaxes.labeling.traces import read_traces
from skillaxes.progress import Progress

SAME_FAMILY = 0.5  # share of word triples, of the union, that the masked prompts of one template have at least


@dataclass(frozen=True)
class Side:
    """One end of a direction.

    Attributes
    ----------
    samples : disjoint lists of shown traces; the first is what the label is made from
    held_out : what scores are made on
    disjoint : those of ``held_out`` that share no template (or value of ``disjoint_by``) with any shown trace
    left_out : reason -> traces that were left out for it
    """

    samples: tuple[tuple[Trace, ...], ...]
    held_out: tuple[Trace, ...]
    disjoint: tuple[Trace, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[Trace, ...]:
        """The traces the label is made from."""
        return self.samples[0]


@dataclass(frozen=True)
class Choice:
    """The traces of one direction.

    Attributes
    ----------
    first : the positive end
    second : the negative end
    between : traces of neither end that share no group with a shown one
    """

    kind: str
    index: int
    first: Side
    second: Side
    between: tuple[Trace, ...]


def choose(
    direction: DirectionRows,
    traces: Mapping[int, Trace],
    *,
    top: int,
    samples: int = 1,
    disjoint_by: str | None = None,
) -> Choice:
    """Divide the ends of a direction into shown and held-out traces.

    Parameters
    ----------
    traces : row -> trace, for every row of the direction
    top : traces to show a side
    samples : disjoint lists of shown traces; all of them count as shown
    disjoint_by : field whose shown values ``disjoint`` avoids; None for the template of the prompt
    """
    n_shown = top * samples
    first, first_doubles, first_empty = _distinct(direction.positive, traces)
    second, second_doubles, second_empty = _distinct(direction.negative, traces)
    shown = first[:n_shown] + second[:n_shown]
    clash = _Clash(shown, disjoint_by)

    def side(ranked: list[Trace], doubles: int, empty: int) -> Side:
        kept = []
        same_group = same_text = 0
        for trace in ranked[n_shown:]:
            if clash.group(trace):
                same_group += 1
            elif clash.text(trace):
                same_text += 1
            else:
                kept.append(trace)
        return Side(
            # Dealt out in turn, so that every sample reaches equally far in.
            samples=tuple(tuple(ranked[:n_shown][i::samples]) for i in range(samples)),
            held_out=tuple(kept),
            disjoint=tuple(trace for trace in kept if not clash.kin(trace)),
            left_out={"near_duplicate": doubles + same_text, "group_shown": same_group, "no_text": empty},
        )

    seen = {trace.row for trace in shown}
    between = (traces[row] for row in direction.middle.rows.tolist() if row in traces and row not in seen)
    return Choice(
        direction.kind,
        direction.index,
        side(first, first_doubles, first_empty),
        side(second, second_doubles, second_empty),
        tuple(t for t in between if t.text and not clash.group(t) and not clash.text(t)),
    )


class _Clash:
    """What a trace may share with the shown ones."""

    def __init__(self, shown: Sequence[Trace], disjoint_by: str | None) -> None:
        self._shown = shown
        self._texts = _Texts(shown)
        self._groups = {trace.group for trace in shown}
        self._templates = {trace.template for trace in shown}
        self._disjoint_by = disjoint_by
        self._values = {trace.fields[disjoint_by] for trace in shown} if disjoint_by else set()

    def group(self, trace: Trace) -> bool:
        return trace.group in self._groups

    def text(self, trace: Trace) -> bool:
        return self._texts.hold(trace)

    def kin(self, trace: Trace) -> bool:
        if self._disjoint_by:
            return trace.fields[self._disjoint_by] in self._values
        return trace.template in self._templates or any(
            alike(trace.family, other.family, SAME_FAMILY) for other in self._shown
        )


class _Texts:
    """Texts that can be asked for near-duplicates, without comparing each with each.

    Two sets that share most of their members share one of their first few in any common order (prefix filtering,
    Chaudhuri et al. 2006).
    """

    def __init__(self, traces: Sequence[Trace] = ()) -> None:
        self._by_hash: dict[int, list[Trace]] = defaultdict(list)
        for trace in traces:
            self.add(trace)

    def add(self, trace: Trace) -> None:
        for value in trace.near:
            self._by_hash[value].append(trace)

    def hold(self, trace: Trace) -> bool:
        """Whether a near-duplicate was added."""
        found = {other.row: other for value in trace.near for other in self._by_hash.get(value, ())}
        return any(alike(trace.shingles, other.shingles, NEAR_DUPLICATE) for other in found.values())


def _distinct(ranked: Ranked, traces: Mapping[int, Trace]) -> tuple[list[Trace], int, int]:
    """The traces of one end without near-duplicates; how many those were; how many had no text."""
    kept: list[Trace] = []
    texts = _Texts()
    doubles = empty = 0
    for row in ranked.rows.tolist():
        trace = traces[row]
        if not trace.text.strip():
            empty += 1
        elif texts.hold(trace):
            doubles += 1
        else:
            kept.append(trace)
            texts.add(trace)
    return kept, doubles, empty


def alike(a: frozenset[int], b: frozenset[int], least: float) -> bool:
    """Whether two sets share at least ``least`` of their union; of full sketches, as far as they tell."""
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
    """A direction that means nothing: ``depth`` rows at either end of a random order of ``rows``."""
    order = np.random.default_rng((seed, 7, index)).permutation(rows)
    depth = min(depth, len(order) // 2)

    def ranked(chosen: np.ndarray) -> Ranked:
        nothing = np.zeros(len(chosen), dtype=np.float32)
        return Ranked(chosen, nothing, nothing)

    return DirectionRows(
        "order",
        index,
        ranked(order[:depth]),
        ranked(order[::-1][:depth]),
        ranked(order[depth : len(order) - depth][:depth]),
    )


BACKGROUND_ROWS = 2000  # texts at large, for the prior of the keyword statistic
REFERENCE_ROWS = 300  # texts at large, for what belongs to neither group


@dataclass(frozen=True)
class Material:
    """The input of a labeling job, divided.

    Attributes
    ----------
    components, randoms, orders : the traces of each direction, random direction and random order
    features : row -> features, for the sample and for everything chosen
    at_large : a seeded sample of all texts
    notes : one sentence on each thing the user should know
    """

    selection: Selection
    components: tuple[Choice, ...]
    randoms: tuple[Choice, ...]
    orders: tuple[Choice, ...]
    features: Mapping[int, Features]
    at_large: tuple[Trace, ...]
    window: dict[str, Any]
    notes: tuple[str, ...]

    def background(self) -> Counter[str]:
        """Terms of texts at large: the prior of the keyword statistic."""
        return count(trace.terms for trace in self.at_large)

    def reference(self) -> tuple[Trace, ...]:
        """Some texts at large, which belong to neither end of anything."""
        return self.at_large[:REFERENCE_ROWS]


def gather(run_dir: Path, traces: str, options: LabelOptions, progress: Progress) -> Material:
    """Read the selection and the texts it names, and divide them.

    Raises
    ------
    RunFolderError, TracesError : see :func:`read_selection`, :func:`read_traces`
    UsageError : more shown traces than the selection keeps
    """
    selection = read_selection(run_dir)
    top = options.top or selection.top
    lengths = [len(end.rows) for d in selection.components for end in (d.positive, d.negative)]
    deepest, depth = min(lengths), max(lengths)
    if top * options.samples > deepest:
        several = f" --samples {options.samples}" if options.samples > 1 else ""
        raise UsageError(
            f"--top {top}{several}: needs {top * options.samples} rows a side, and the selection keeps {deepest}; "
            f"type --top {max(1, deepest // options.samples)} or run skillaxes discover with a larger --pool"
        )
    sample_rows = selection.samples[0].rows
    randoms = selection.randoms[: options.n_baselines]
    orders = tuple(
        random_order(sample_rows, depth, index, options.seed)
        for index in range(options.n_baselines if len(sample_rows) >= 2 * top else 0)
    )
    everything = (*selection.components, *randoms, *orders)
    chosen = {row for direction in everything for row in _rows(direction)}
    random = np.random.default_rng((options.seed, 3))
    at_large = random.permutation(sample_rows)[:BACKGROUND_ROWS].tolist()
    whole = chosen.union(at_large)
    measured = {row for direction in selection.components for row in _rows(direction)}.union(sample_rows.tolist())

    window, about_window = window_of(options.window, selection.token_range)
    named = tuple(dict.fromkeys(name for name in (options.group_by, options.disjoint_by, *options.confound) if name))
    reader = Reader(Template(options.template), options.text, window, options.group_by, named)
    texts: dict[int, Trace] = {}
    features: dict[int, Features] = {}

    def take(row: int, record: Mapping[str, Any]) -> None:
        if row in whole:
            texts[row] = reader.trace(row, selection.trace_ids.get(row), record)
        if row in measured:
            features[row] = reader.features(row, record)

    read_traces(
        traces,
        sorted(whole | measured),
        take,
        n_rows=selection.n_rows,
        ids=selection.trace_ids,
        progress=progress,
    )
    divide = partial(choose, traces=texts, top=top, samples=options.samples, disjoint_by=options.disjoint_by)
    notes = [about_window] if not window.known else []
    if not randoms and options.n_baselines:
        notes.append("the selection holds no random directions: scores go without that baseline")
    return Material(
        selection=selection,
        components=tuple(map(divide, selection.components)),
        randoms=tuple(map(divide, randoms)),
        orders=tuple(map(divide, orders)),
        features=features,
        at_large=tuple(texts[row] for row in at_large),
        window={"choice": options.window, "tokens": window.stop, "known": window.known, "text": about_window},
        notes=tuple(notes),
    )


def _rows(direction: DirectionRows) -> Iterable[int]:
    for ranked in (direction.positive, direction.negative, direction.middle):
        yield from ranked.rows.tolist()
