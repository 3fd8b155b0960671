"""Labels of directions, made from texts and scored on held-out texts.

``label`` reads ``selection.parquet`` and a source of traces, and writes ``labels.jsonl``; ``estimate`` gives the
requests and the cost of that beforehand. A labeler is a class with two methods
(:mod:`skillaxes.labeling.labelers.base`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillaxes import lazy_names
from skillaxes.labeling.labelers import LABELERS
from skillaxes.labeling.options import LabelOptions

if TYPE_CHECKING:
    from skillaxes.labeling.estimation import Estimate, estimate
    from skillaxes.labeling.job import LabelSummary, label

__all__ = ["LABELERS", "Estimate", "LabelOptions", "LabelSummary", "estimate", "label"]

__getattr__ = lazy_names(__name__, {"estimation": "Estimate estimate", "job": "LabelSummary label"})
