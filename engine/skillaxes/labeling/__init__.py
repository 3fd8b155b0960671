"""Labels of directions, made from texts and scored on held-out texts.

``label`` reads ``selection.parquet`` and a source of traces, and writes ``labels.jsonl``; ``estimate`` gives the
requests and the cost of that beforehand. A labeler is a class with two methods
(:mod:`skillaxes.labeling.labelers.base`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skillaxes.labeling.labelers import LABELERS
from skillaxes.labeling.options import LabelOptions

if TYPE_CHECKING:
    from skillaxes.labeling.estimation import Estimate, estimate
    from skillaxes.labeling.job import LabelSummary, label

__all__ = ["LABELERS", "Estimate", "LabelOptions", "LabelSummary", "estimate", "label"]

_HOMES = {
    "Estimate": "skillaxes.labeling.estimation",
    "estimate": "skillaxes.labeling.estimation",
    "LabelSummary": "skillaxes.labeling.job",
    "label": "skillaxes.labeling.job",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
