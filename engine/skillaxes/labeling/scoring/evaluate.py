"""One direction: its label, further labels for comparison, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from skillaxes.labeling.examples import Choice
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
from skillaxes.labeling.texts import Trace

_KINDS = ("component", "random", "order")


def purpose_of(choice: Choice) -> str:
    """What calls for a direction are booked under."""
    return f"{choice.kind} {choice.index}"


@dataclass(frozen=True)
class Scores:
    """The scores of one label, and of text length on the same pairs.

    Attributes
    ----------
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


def ask_label(labeler: Labeler, first: Sequence[Trace], second: Sequence[Trace], purpose: str) -> Label | LabelFailure:
    """A label, or the failure as a value."""
    if not first or not second:
        return LabelFailure("no_texts", "no trace of one end has a text to show")
    try:
        return labeler.label(first, second, purpose)
    except LabelFailure as failure:
        return failure


def score(
    labeler: Labeler,
    label: Label | LabelFailure,
    choice: Choice,
    options: LabelOptions,
    run: Mapper,
    *,
    pairs_only: bool,
) -> Scores:
    """Score a label on the held-out traces of its direction; nothing is scored without a label."""
    if isinstance(label, LabelFailure) or not label.interpretable:
        return Scores()
    judge = labeler.judge(label, purpose_of(choice))
    length = LengthJudge(choice.first.shown, choice.second.shown)
    seed = (options.seed, _KINDS.index(choice.kind), choice.index)
    first, second = choice.first, choice.second
    drawn = draw_pairs(first.held_out, second.held_out, options.pairs, (*seed, 0))
    credits = judge_pairs(judge, drawn, run)
    found = Scores(
        pairs=pair_score(credits),
        length=_by_length(length, drawn, credits),
        asked=len(drawn),
        failures=_failures(credits),
    )
    if pairs_only:
        return found
    apart = draw_pairs(first.disjoint, second.disjoint, options.pairs, (*seed, 1))
    credits = judge_pairs(judge, apart, run)
    singles = draw_singles(first.held_out, second.held_out, choice.between, options.detections, (*seed, 2))
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


def agreement(labeler: Labeler, label: Label | LabelFailure, choice: Choice, samples: int) -> dict[str, Any] | None:
    """How far labels from disjoint samples, and from swapped groups, say the same; None for a single sample.

    ``overlap`` and ``swapped`` are the mean share of words, of the union, that two labels have in common a side;
    null where no further label came.
    """
    if samples < 2 or isinstance(label, LabelFailure) or not label.interpretable:
        return None
    purpose = purpose_of(choice)
    others = [ask_label(labeler, choice.first.samples[i], choice.second.samples[i], purpose) for i in range(1, samples)]
    overlaps = [
        (_overlap(label.first, other.first) + _overlap(label.second, other.second)) / 2
        for other in others
        if isinstance(other, Label) and other.interpretable
    ]
    swapped = ask_label(labeler, choice.second.shown, choice.first.shown, purpose)
    return {
        "samples": samples,
        "labels": [_title(other) for other in others],
        "overlap": round(sum(overlaps) / len(overlaps), 4) if overlaps else None,
        "swapped_label": _title(swapped),
        "swapped": (
            round((_overlap(label.first, swapped.second) + _overlap(label.second, swapped.first)) / 2, 4)
            if isinstance(swapped, Label) and swapped.interpretable
            else None
        ),
    }


def _title(label: Label | LabelFailure) -> str:
    if isinstance(label, LabelFailure):
        return f"failed: {label.kind}"
    return f"{' '.join(label.first)} vs. {' '.join(label.second)}" if label.interpretable else "uninterpretable"


def _overlap(a: Sequence[str], b: Sequence[str]) -> float:
    x, y = ({word.lower().rstrip("s") for word in words} for words in (a, b))
    return len(x & y) / len(x | y) if x | y else 0.0
