"""``labels.jsonl``: one record a direction, always replaced as a whole.

Fields of a record::

    format_version  1
    direction       index of the direction
    status          "labelled", "uninterpretable" (the labeler's own answer) or "failed"
    kind            "words" (terms that separate the ends) or "name"; null when failed
    labeler, model, base_url
    rung            response format that the server took: "json_schema", "json_object" or "text"; null offline
    title           "a, b, c vs. d, e, f" (words) or "a b c vs. d e f" (name); null unless labelled
    keywords        {"positive": [three], "negative": [three]}
    attributes      {"positive": [...], "negative": [...]}
    axes            [scale on which the two ends differ, ...]
    analysis        text or null
    details         further findings of this labeler: z-scores of the words, ...
    failure         null, or {"kind", "message", "request_id", "status"}
    shown           {"positive": [{"row", "trace_id", "score", "tokens", "cut"}, ...], "negative": [...]}
                    tokens, cut: in the prompt, and taken out of its middle; null for an offline labeler
                    and "excerpt", "excerpt_cut": the beginning of the text, and whether it goes on
    held_out        {"positive", "negative", "disjoint_positive", "disjoint_negative", "between"}: numbers of traces
    left_out        {"positive": {reason: number}, "negative": {...}}
    scores          {"pairs", "disjoint", "detection"}: see scoring/scores.py; null where there is none
    baselines       {"length", "length_disjoint", "random_directions", "random_orders"}: see scoring/baselines.py
    judge_failures  [{"kind", "message", "request_id", "status", "count"}]: judgements without an answer
    verdict         {"survives": bool, "text": one line}
    confounds       {"rows", "spearman": {name: number}, "categories": {field: {side: [...]}}, "confounded_with": [...]}
    agreement       null, or {"samples", "overlap", "swapped"}
    split_half      |cos| between halves of the rows, or null
    text, window, group_by, disjoint_by
    usage, cost     of this direction: tokens by kind, dollars (null where the price is unknown)
    configuration   digest of the options and the selection
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skillaxes.files import atomic_write
from skillaxes.labeling.examples import DirectionExamples, SideExamples
from skillaxes.labeling.labels import Label, LabelFailure
from skillaxes.labeling.scoring.baselines import NullScores
from skillaxes.labeling.scoring.evaluate import Scores
from skillaxes.labeling.scoring.scores import DetectionScore, PairScore
from skillaxes.labeling.scoring.verdict import Verdict
from skillaxes.run_folder import schema
from skillaxes.run_folder.labels import FAILED, LABELLED, UNINTERPRETABLE, WORDS

EXCERPT = 600  # characters of a shown text that the record keeps, for readers without the texts


def label_part(label: Label | LabelFailure, kind: str) -> dict[str, Any]:
    """The fields of the label, or of its failure."""
    if isinstance(label, LabelFailure):
        status, failure = FAILED, label.as_dict()
        label = Label((), ())
    else:
        status, failure = (LABELLED if label.interpretable else UNINTERPRETABLE), None
    between = ", " if kind == WORDS else " "
    title = f"{between.join(label.positive)} vs. {between.join(label.negative)}"
    return {
        "status": status,
        "kind": None if status == FAILED else kind,
        "title": title if status == LABELLED else None,
        "keywords": {"positive": list(label.positive), "negative": list(label.negative)},
        "attributes": {"positive": list(label.positive_attributes), "negative": list(label.negative_attributes)},
        "axes": list(label.axes),
        "analysis": label.analysis,
        "details": label.details,
        "failure": failure,
    }


def examples_part(
    direction: DirectionExamples, scores: Mapping[int, float], cuts: Mapping[int, tuple[int, int]]
) -> dict[str, Any]:
    """The fields of the traces that were shown, held out and left out.

    Parameters
    ----------
    scores : row -> the score that ranked it
    cuts : row -> (tokens in the prompt, tokens cut out of it)
    """

    def shown(side: SideExamples) -> list[dict[str, Any]]:
        return [
            {
                "row": trace.row,
                "trace_id": trace.trace_id,
                "score": round(scores[trace.row], 6),
                "tokens": cuts.get(trace.row, (None, None))[0],
                "cut": cuts.get(trace.row, (None, None))[1],
                "excerpt": trace.text[:EXCERPT],
                "excerpt_cut": len(trace.text) > EXCERPT,
            }
            for sample in side.samples
            for trace in sample
        ]

    return {
        "shown": {"positive": shown(direction.positive), "negative": shown(direction.negative)},
        "held_out": {
            "positive": len(direction.positive.held_out),
            "negative": len(direction.negative.held_out),
            "disjoint_positive": len(direction.positive.disjoint),
            "disjoint_negative": len(direction.negative.disjoint),
            "between": len(direction.between),
        },
        "left_out": {"positive": dict(direction.positive.left_out), "negative": dict(direction.negative.left_out)},
    }


def score_part(scores: Scores, randoms: NullScores, orders: NullScores, verdict: Verdict) -> dict[str, Any]:
    """The fields of the scores, the baselines and the verdict."""
    return {
        "scores": {
            "pairs": _figures(scores.pairs),
            "disjoint": _figures(scores.disjoint),
            "detection": _figures(scores.detection),
        },
        "baselines": {
            "length": _figures(scores.length),
            "length_disjoint": _figures(scores.length_disjoint),
            "random_directions": randoms.as_dict() if randoms.asked else None,
            "random_orders": orders.as_dict() if orders.asked else None,
        },
        "judge_failures": _count_by_kind(scores.failures),
        "verdict": verdict.as_dict(),
    }


def _count_by_kind(failures: Sequence[LabelFailure]) -> list[dict[str, Any]]:
    """One entry for each kind of failure: its first failure, and their number."""
    kinds: dict[str, dict[str, Any]] = {}
    for failure in failures:
        entry = kinds.setdefault(failure.kind, {**failure.as_dict(), "count": 0})
        entry["count"] += 1
    return list(kinds.values())


def _figures(score: PairScore | DetectionScore | None) -> dict[str, Any] | None:
    return None if score is None else score.as_dict()


def write_records(run_dir: Path, records: Sequence[dict[str, Any]]) -> Path:
    """Replace ``labels.jsonl`` in one step."""
    path = Path(run_dir) / schema.LABELS
    with atomic_write(path) as aside, aside.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path
