"""What the overview and the sections both show of a direction."""

from __future__ import annotations

from collections.abc import Sequence

from skillaxes.report.html import Markup, element, joined
from skillaxes.run_folder.contents import Direction

STABLE = 0.9  # |cos| between the directions of two halves of the rows


def pole(direction: Direction, side: str) -> object:
    """The keywords of an end, or what stands in their place."""
    label = direction.label or {}
    words = (label.get("keywords") or {}).get(side)
    if label.get("status") == "labelled" and words:
        return element("span", words_of(words), class_="pole")
    return element("span", str(label.get("status", "–")), class_="unknown")


def words_of(words: Sequence[object]) -> Markup:
    """Keywords with commas; none is torn apart at the end of a line unless it is longer than the line."""
    spans = [
        element("span", f"{word}{',' if i < len(words) - 1 else ''}", class_="word") for i, word in enumerate(words)
    ]
    return joined(*[part for span in spans for part in (span, " ")][:-1])


def stability_of(direction: Direction) -> tuple[str, bool]:
    """``split_half`` as text, and whether it is too small."""
    value = direction.facts.get("split_half")
    return ("–", False) if value is None else (f"{value:.2f}", value < STABLE)


def verdict_of(direction: Direction) -> Markup:
    """The verdict on the label, in words."""
    verdict = (direction.label or {}).get("verdict") or {}
    return element("span", verdict.get("text", "–"), class_=f"verdict {'yes' if verdict.get('survives') else 'no'}")
