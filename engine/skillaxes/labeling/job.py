"""A labeling job: load the examples, label, score, compare with the baselines, write ``labels.jsonl``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from skillaxes.errors import RunFolderError
from skillaxes.labeling.examples import DirectionExamples, Examples, load_examples
from skillaxes.labeling.labelers import LABELERS
from skillaxes.labeling.labelers.base import Labeler
from skillaxes.labeling.labels import Label, LabelFailure, Usage
from skillaxes.labeling.options import LabelOptions, make_options
from skillaxes.labeling.records import examples_part, label_part, score_part, write_records
from skillaxes.labeling.scoring.baselines import NullScores, null_scores
from skillaxes.labeling.scoring.confounds import confounds
from skillaxes.labeling.scoring.evaluate import Scores, agreement, ask_label, score, usage_key
from skillaxes.labeling.scoring.verdict import Verdict, judge_score
from skillaxes.progress import SILENT, Progress, Stage
from skillaxes.run_folder import schema
from skillaxes.run_folder.labels import FAILED, LABELLED, UNINTERPRETABLE, read_labels

_NO_NULLS = NullScores((), 0, 0)
_SECONDS_BETWEEN_WRITES = 5.0


@dataclass(frozen=True)
class LabelSummary:
    """The result of a labeling job.

    Attributes
    ----------
    path : the written ``labels.jsonl``
    records : its records
    usage : of all replies that were used
    spent : dollars spent by this command, requests without an answer at their worst case; None where unknown
    notes : remarks for the user, one sentence each
    stopped_by_cost : whether ``max_cost`` kept something from being sent
    """

    path: Path
    records: tuple[dict[str, Any], ...]
    usage: Usage
    spent: float | None
    notes: tuple[str, ...]
    stopped_by_cost: bool = False

    def _count(self, status: str) -> int:
        return sum(record["status"] == status for record in self.records)

    @property
    def n_labelled(self) -> int:
        return self._count(LABELLED)

    @property
    def n_uninterpretable(self) -> int:
        return self._count(UNINTERPRETABLE)

    @property
    def n_failed(self) -> int:
        return self._count(FAILED)

    @property
    def n_survive(self) -> int:
        return sum(record["verdict"]["survives"] for record in self.records)

    @property
    def exit_code(self) -> int:
        """0 when everything was answered; 75 when ``max_cost`` stopped it, and it can go on; 1 for other failures."""
        if self.stopped_by_cost:
            return 75
        return 1 if self.n_failed or any(record["judge_failures"] for record in self.records) else 0


def label(
    run_dir: Path | str,
    traces: str | Path,
    *,
    options: LabelOptions | None = None,
    progress: Progress = SILENT,
    overwrite: bool = False,
    **keywords: Any,
) -> LabelSummary:
    """Label the directions of a run folder and score the labels.

    Parameters
    ----------
    run_dir : folder with a ``selection.parquet``; ``labels.jsonl`` is written there
    traces : source of the texts, see :func:`skillaxes.labeling.traces.read_traces`
    options : or the fields of :class:`LabelOptions` as keywords
    progress : shows stages and remarks
    overwrite : replace labels of another configuration

    Raises
    ------
    UsageError : an option that cannot be served; no API key
    RunFolderError : no selection, or labels of another configuration
    TracesError : texts that do not belong to the rows
    """
    options = make_options(**keywords) if options is None else options
    run_dir = Path(run_dir)
    # Built first: without a key it fails before anything is read or written.
    with closing(LABELERS[options.labeler].build(options, run_dir)) as labeler:
        examples = load_examples(run_dir, str(traces), options, progress)
        configuration = options.digest(examples.selection.digest)
        if not overwrite:
            _check_configuration(run_dir, configuration)
        for note in examples.notes:
            progress.note(note)
        labeler.prepare(examples, progress)
        return _Job(run_dir, options, examples, labeler, configuration, progress).run()


def _check_configuration(run_dir: Path, configuration: str) -> None:
    others = [record for record in read_labels(run_dir) if record["configuration"] != configuration]
    if others:
        raise RunFolderError(
            f"{run_dir} holds labels by {others[0].get('labeler')} made with other options or rows; "
            f"type --overwrite to replace them"
        )


class _Job:
    def __init__(
        self,
        run_dir: Path,
        options: LabelOptions,
        examples: Examples,
        labeler: Labeler,
        configuration: str,
        progress: Progress,
    ) -> None:
        self._run_dir = run_dir
        self._options = options
        self._examples = examples
        self._labeler = labeler
        self._configuration = configuration
        self._progress = progress
        self._records: list[dict[str, Any]] = []
        self._written = 0.0

    def run(self) -> LabelSummary:
        examples, options = self._examples, self._options
        labels = self._labels("labels", examples.components)
        self._records = [
            self._record(direction, found) for direction, found in zip(examples.components, labels, strict=True)
        ]
        self._write()

        scored: list[Scores] = []
        with self._progress.stage("scores", len(labels), unit="directions") as stage:
            for direction, found, record in zip(examples.components, labels, self._records, strict=True):
                scores = score(self._labeler, found, direction, options, self._map, pairs_only=False)
                scored.append(scores)
                record["agreement"] = agreement(self._labeler, found, direction, options.samples)
                record.update(score_part(scores, _NO_NULLS, _NO_NULLS, Verdict(False, "baselines are missing")))
                self._write_at_intervals()
                stage.advance(1)
        self._note_spending("scores")
        # Without a score there is nothing to compare baselines with.
        any_scored = any(scores.pairs is not None for scores in scored)
        randoms = self._null_scores("random directions", examples.randoms if any_scored else ())
        orders = self._null_scores("random orders", examples.orders if any_scored else ())
        for found, scores, record in zip(labels, scored, self._records, strict=True):
            verdict = self._verdict(found, scores, randoms, orders, record)
            record.update(score_part(scores, randoms, orders, verdict))
        path = self._write()
        for note in self._labeler.notes():
            self._progress.note(note)
        return LabelSummary(
            path=path,
            records=tuple(self._records),
            usage=self._labeler.usage(),
            spent=self._labeler.spent(),
            notes=(*examples.notes, *self._labeler.notes()),
            stopped_by_cost=self._labeler.stopped_by_cost(),
        )

    def _labels(self, name: str, directions: Sequence[DirectionExamples]) -> list[Label | LabelFailure]:
        with self._progress.stage(name, len(directions), unit="directions") as stage:
            found = self._map(partial(self._ask, stage=stage), directions)
        self._note_spending(name)
        return found

    def _ask(self, direction: DirectionExamples, stage: Stage) -> Label | LabelFailure:
        found = ask_label(
            self._labeler,
            direction.positive.shown,
            direction.negative.shown,
            usage_key(direction.kind, direction.index),
        )
        stage.advance(1)
        return found

    def _null_scores(self, name: str, directions: Sequence[DirectionExamples]) -> NullScores:
        if not directions or not self._options.pairs:
            return _NO_NULLS
        labels = self._labels(name, directions)
        with self._progress.stage(f"{name}, scores", len(directions), unit="directions") as stage:
            found = []
            for direction, one in zip(directions, labels, strict=True):
                found.append(score(self._labeler, one, direction, self._options, self._map, pairs_only=True).pairs)
                stage.advance(1)
        self._note_spending(f"scores of {name}")
        return null_scores(found)

    def _note_spending(self, after: str) -> None:
        spent = self._labeler.spent()
        if spent:
            limit = f" of ${self._options.max_cost:g}" if self._options.max_cost else ""
            self._progress.note(f"spent after {after}: ${spent:.4f}{limit}")

    def _verdict(
        self,
        found: Label | LabelFailure,
        scores: Scores,
        randoms: NullScores,
        orders: NullScores,
        record: dict[str, Any],
    ) -> Verdict:
        if isinstance(found, LabelFailure):
            return Verdict(False, f"no label: {found.kind}")
        if not found.interpretable:
            return Verdict(False, "uninterpretable, says the labeler")
        return judge_score(scores, randoms, orders, record["split_half"])

    def _record(self, direction: DirectionExamples, found: Label | LabelFailure) -> dict[str, Any]:
        examples, options = self._examples, self._options
        selection = examples.selection
        position = [component.index for component in selection.components].index(direction.index)
        rows = selection.components[position]
        ends = (rows.positive, rows.negative)
        ranked = {
            row: float(value) for end in ends for row, value in zip(end.rows.tolist(), end.scores.tolist(), strict=True)
        }
        split_half = selection.split_half[position] if position < len(selection.split_half) else None
        record = {
            "format_version": 1,
            "direction": direction.index,
            **label_part(found, self._labeler.kind),
            "labeler": self._labeler.name,
            **self._labeler.describe(),
            **examples_part(direction, ranked, found.cuts if isinstance(found, Label) else {}),
            **score_part(Scores(), _NO_NULLS, _NO_NULLS, Verdict(False, "not scored")),
            "confounds": confounds(selection.samples[position], rows, examples.features, options.confound),
            "agreement": None,
            "split_half": split_half,
            "text": options.text,
            "window": examples.window,
            "group_by": options.group_by,
            "disjoint_by": options.disjoint_by,
            "configuration": self._configuration,
        }
        if isinstance(found, LabelFailure):
            record["verdict"] = Verdict(False, f"no label: {found.kind}").as_dict()
        return record

    def _add_usage(self, record: dict[str, Any]) -> None:
        usage = self._labeler.usage(usage_key(schema.COMPONENT, record["direction"]))
        record["usage"] = usage.as_dict()
        record["cost"] = usage.cost

    def _write_at_intervals(self) -> None:
        # For readers of the file meanwhile; the replies themselves are safe in the cache.
        if monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self._write()

    def _write(self) -> Path:
        self._written = monotonic()
        for record in self._records:
            self._add_usage(record)
        return write_records(self._run_dir, self._records)

    def _map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        if self._labeler.workers == 1:
            return [function(item) for item in items]
        pool = ThreadPoolExecutor(self._labeler.workers)
        try:
            return list(pool.map(function, items))
        finally:
            # After an interrupt, queued calls are not made.
            pool.shutdown(wait=True, cancel_futures=True)
