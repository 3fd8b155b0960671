"""Evaluation of one direction: its label, further labels for comparison, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from skillaxes.labeling.examples import DirectionExamples
from skillaxes.labeling.labelers.base import Labeler
from skillaxes.labeling.labels import Label, LabelFailure
from skillaxes.labeling.options import LabelOptions
from skillaxes.labeling.scoring.baselines import LengthJudge
from skillaxes.labeling.scoring.scores import (
    DetectionScore,
    Mapper,
    PairScore,
    detection_score,
    draw_pairs,
    draw_singles,
    judge_pairs,
    judge_singles,
    pair_score,
)
from skillaxes.labeling.selection import KINDS
from skillaxes.labeling.texts import Trace


def usage_key(kind: str, index: int) -> str:
    """The key that the usage of a direction is summed under."""
    return f"{kind} {index}"


@dataclass(frozen=True)
class Scores:
    """The scores of one label, and of text length on the same pairs.

    Attributes
    ----------
    pairs, disjoint : of blind pairs of held-out traces, and of those that share no template with a shown one
    detection : of traces judged each alone
    asked : blind pairs that were drawn
    length, length_disjoint : the length judge's scores on the answered pairs
    failures : of judgements that were not answered
    """

    pairs: PairScore | None = None
    disjoint: PairScore | None = None
    detection: DetectionScore | None = None
    length: PairScore | None = None
    length_disjoint: PairScore | None = None
    asked: int = 0
    failures: tuple[LabelFailure, ...] = ()


def ask_label(labeler: Labeler, positive: Sequence[Trace], negative: Sequence[Trace], key: str) -> Label | LabelFailure:
    """A label, or the failure as a value."""
    if not positive or not negative:
        return LabelFailure("no_texts", "no trace of one end has a text to show")
    try:
        return labeler.label(positive, negative, key)
    except LabelFailure as failure:
        return failure


def score(
    labeler: Labeler,
    label: Label | LabelFailure,
    direction: DirectionExamples,
    options: LabelOptions,
    run: Mapper,
    *,
    pairs_only: bool,
) -> Scores:
    """Score a label on the held-out traces of its direction; nothing is scored without a label."""
    if isinstance(label, LabelFailure) or not label.interpretable:
        return Scores()
    judge = labeler.judge(label, usage_key(direction.kind, direction.index))
    length = LengthJudge(direction.positive.shown, direction.negative.shown)
    seed = (options.seed, KINDS.index(direction.kind), direction.index)
    positive, negative = direction.positive, direction.negative
    drawn = draw_pairs(positive.held_out, negative.held_out, options.pairs, (*seed, 0))
    credits = judge_pairs(judge, drawn, run)
    found = Scores(
        pairs=pair_score(credits),
        length=_by_length(length, drawn, credits),
        asked=len(drawn),
        failures=_failures(credits),
    )
    if pairs_only:
        return found
    apart = draw_pairs(positive.disjoint, negative.disjoint, options.pairs, (*seed, 1))
    credits = judge_pairs(judge, apart, run)
    singles = draw_singles(positive.held_out, negative.held_out, direction.between, options.detections, (*seed, 2))
    answers = judge_singles(judge, singles, run)
    return replace(
        found,
        disjoint=pair_score(credits),
        length_disjoint=_by_length(length, apart, credits),
        detection=detection_score(singles, answers),
        failures=found.failures + _failures(credits) + _failures(answers),
    )


def _by_length(
    length: LengthJudge, pairs: Sequence[tuple[Trace, Trace]], credits: Sequence[float | LabelFailure]
) -> PairScore | None:
    # On the answered pairs only: the two are compared pair by pair.
    return pair_score(
        [
            length.pair(*pair)
            for pair, credit in zip(pairs, credits, strict=True)
            if not isinstance(credit, LabelFailure)
        ]
    )


def _failures(answers: Sequence[Any]) -> tuple[LabelFailure, ...]:
    return tuple(answer for answer in answers if isinstance(answer, LabelFailure))


def agreement(
    labeler: Labeler, label: Label | LabelFailure, direction: DirectionExamples, samples: int
) -> dict[str, Any] | None:
    """Agreement of labels from disjoint samples, and from swapped groups; None for a single sample.

    ``overlap`` and ``swapped`` are the mean share of words, of the union, that two labels have in common a side;
    null where no further label came.
    """
    if samples < 2 or isinstance(label, LabelFailure) or not label.interpretable:
        return None
    key = usage_key(direction.kind, direction.index)
    positive, negative = direction.positive, direction.negative
    others = [ask_label(labeler, positive.samples[i], negative.samples[i], key) for i in range(1, samples)]
    overlaps = [
        (_overlap(label.positive, other.positive) + _overlap(label.negative, other.negative)) / 2
        for other in others
        if isinstance(other, Label) and other.interpretable
    ]
    swapped = ask_label(labeler, negative.shown, positive.shown, key)
    return {
        "samples": samples,
        "labels": [_title(other) for other in others],
        "overlap": round(sum(overlaps) / len(overlaps), 4) if overlaps else None,
        "swapped_label": _title(swapped),
        "swapped": (
            round((_overlap(label.positive, swapped.negative) + _overlap(label.negative, swapped.positive)) / 2, 4)
            if isinstance(swapped, Label) and swapped.interpretable
            else None
        ),
    }


def _title(label: Label | LabelFailure) -> str:
    if isinstance(label, LabelFailure):
        return f"failed: {label.kind}"
    return f"{' '.join(label.positive)} vs. {' '.join(label.negative)}" if label.interpretable else "uninterpretable"


def _overlap(a: Sequence[str], b: Sequence[str]) -> float:
    x, y = ({word.lower().rstrip("s") for word in words} for words in (a, b))
    return len(x & y) / len(x | y) if x | y else 0.0
