"""The traces at one end of a direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skillaxes.report.html import Markup, element, joined
from skillaxes.report.parts import words_of
from skillaxes.run_folder.contents import Direction, Row
from skillaxes.run_folder.formats import CENTERED_COSINE, PROJECTION, RAW_COSINE

_OPEN = 3  # examples that are shown at once


def end_of(direction: Direction, side: str, rank_by: str) -> Markup:
    label = direction.label or {}
    words = (label.get("keywords") or {}).get(side) if label.get("status") == "labelled" else None
    heading = joined(f"{side.capitalize()} end", [": ", words_of(words)] if words else None)
    attributes = (label.get("attributes") or {}).get(side) or []
    shown = {entry["row"]: entry for entry in (label.get("shown") or {}).get(side) or []}
    scores = {row.row: score_of(row, rank_by) for row in direction.ends[side]}
    # Near-duplicates are not shown to a labeler, so that it reads rows beyond the list too.
    scores |= {row: entry.get("score") for row, entry in shown.items() if row not in scores}
    kept = {row.row: row for row in direction.ends[side]}
    items = [
        _trace(row, score, kept.get(row), shown.get(row))
        for row, score in sorted(scores.items(), key=lambda entry: not (shown.get(entry[0]) or {}).get("excerpt"))
    ]
    more = element("details", element("summary", f"{len(items) - _OPEN} more"), _list(items[_OPEN:]), class_="more")
    return element(
        "div",
        element("h3", heading),
        element("ul", [element("li", text) for text in attributes], class_="attributes") if attributes else None,
        _list(items[:_OPEN]) if items else element("p", "No rows.", class_="soft"),
        more if len(items) > _OPEN else None,
        class_=f"end {side}",
    )


def _list(items: Sequence[Markup]) -> Markup:
    return element("ol", items, class_="traces")


def score_of(row: Row, rank_by: str) -> float | None:
    """What the row was ranked by."""
    return {RAW_COSINE: row.cosine, CENTERED_COSINE: row.cosine_centered, PROJECTION: row.projection}[rank_by]


def _trace(row: int, score: float | None, kept: Row | None, shown: Mapping[str, Any] | None) -> Markup:
    trace_id = kept.trace_id if kept else (shown or {}).get("trace_id")
    meta = [
        element("b", f"row {row:,}"),
        element("span", f"{score:.4f}") if score is not None else None,
        element("span", trace_id) if trace_id is not None else None,
        element("span", "not settled", class_="open") if kept and not kept.settled else None,
        element("span", "below the list") if kept is None else None,
    ]
    head = element("div", meta, class_="meta")
    excerpt = str((shown or {}).get("excerpt") or "").strip()
    if not excerpt:
        return element("li", head, class_="trace")
    cut = "…" if (shown or {}).get("excerpt_cut") else ""
    text = element("div", excerpt + cut, class_="excerpt", dir="auto")
    return element("li", element("details", element("summary", head, text)), class_="trace")
