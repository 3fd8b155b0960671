"""Everything a labeling job needs before the first label: the texts, and who is shown and who is held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from skillaxes.errors import UsageError
from skillaxes.labeling.choosing import Choice, choose, random_order
from skillaxes.labeling.logodds import count
from skillaxes.labeling.options import LabelOptions
from skillaxes.labeling.selection import DirectionRows, Selection, read_selection
from skillaxes.labeling.template import Template
from skillaxes.labeling.texts import Features, Reader, Trace, window_of
from skillaxes.labeling.traces import read_traces
from skillaxes.progress import Progress

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
