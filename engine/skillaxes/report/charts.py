"""The geometry of the page's charts; ``charts.html.j2`` draws it as SVG, without a script or a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skillaxes.report.filters import percent, three_digits
from skillaxes.run_folder.histograms import Histogram
from skillaxes.run_folder.schema import NEGATIVE, POSITIVE

_WIDTH, _HEIGHT = 480, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 16, 22  # margins around the plot
_FLOOR = _HEIGHT - _BOTTOM
_PLOT_HEIGHT = _HEIGHT - _TOP - _BOTTOM


@dataclass(frozen=True)
class Mark:
    """One SVG element.

    Attributes
    ----------
    tag : ``rect``, ``line`` or ``text``
    place : its coordinates and extents, in units of the view box
    style : its classes in the style sheet; empty for none
    text : what it says: written there, or shown while the pointer is over it
    """

    tag: str
    place: dict[str, str]
    style: str = ""
    text: str = ""


@dataclass(frozen=True)
class Chart:
    """One drawing: marks in the order in which they are painted."""

    title: str
    marks: list[Mark]
    width: int = _WIDTH
    height: int = _HEIGHT


def scree(ratios: Sequence[float]) -> Chart:
    """Share of the variance of each direction, one bar each."""
    k = len(ratios)
    most = max([*ratios, 1e-12])
    slot = (_WIDTH - _LEFT - _RIGHT) / k
    every = -(-k // 20)  # labels that still stand apart
    marks = []
    for index, ratio in enumerate(ratios):
        x, height = _LEFT + index * slot, _PLOT_HEIGHT * ratio / most
        title = f"direction {index}: {percent(ratio)}"
        marks.append(_rect(x + slot * 0.12, _FLOOR - height, slot * 0.76, height, "bar", title))
        if index % every == 0:
            marks.append(_text(x + slot / 2, _HEIGHT - 7, str(index)))
        if k <= 12:
            marks.append(_text(x + slot / 2, _FLOOR - height - 4, percent(ratio), style="value"))
    return Chart("Share of the variance of each direction", [*marks, _axis()])


def histogram(title: str, data: Histogram, low: float | None, high: float | None) -> Chart:
    """The rows' spread over a score; the lists hold the rows from ``low`` down and from ``high`` up."""
    edges, counts = data.edges, data.counts
    first, last = float(edges[0]), float(edges[-1])
    span = float(edges[-1] - edges[0]) or 1.0

    def at(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - first) / span

    most = max(1, int(counts.max()))
    marks = []
    for left, right, rows in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True):
        if not rows:
            continue
        side = POSITIVE if high is not None and left >= high else NEGATIVE if low is not None and right <= low else ""
        # A bin with one row in a million must still be seen.
        height = max(1.0, _PLOT_HEIGHT * rows / most)
        label = f"{three_digits(left)} to {three_digits(right)}: {rows:,} rows"
        width = at(right) - at(left) - 0.4
        marks.append(_rect(at(left), _FLOOR - height, width, height, f"bar {side}".strip(), label))
    for value, side in ((low, NEGATIVE), (high, POSITIVE)):
        if value is not None and first <= value <= last:
            marks.append(_upright(at(value), _TOP - 4, _FLOOR, f"threshold {side}"))
    marks += [
        _axis(),
        _text(_LEFT, _HEIGHT - 7, three_digits(first), "start"),
        _text(_WIDTH - _RIGHT, _HEIGHT - 7, three_digits(last), "end"),
    ]
    if first < -0.12 * span and last > 0.12 * span:
        marks += [_upright(at(0), _FLOOR, _FLOOR + 5, "axis"), _text(at(0), _HEIGHT - 7, "0")]
    return Chart(title, marks)


def _rect(x: float, y: float, width: float, height: float, style: str, title: str) -> Mark:
    extents = {"width": f"{max(0.0, width):.2f}", "height": f"{max(0.0, height):.2f}"}
    return Mark("rect", {"x": f"{x:.2f}", "y": f"{y:.2f}", **extents}, style, title)


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> Mark:
    return Mark("text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}, style, text)


def _axis() -> Mark:
    return Mark("line", {"x1": f"{_LEFT}", "x2": f"{_WIDTH - _RIGHT}", "y1": f"{_FLOOR}", "y2": f"{_FLOOR}"}, "axis")


def _upright(x: float, top: float, bottom: float, style: str) -> Mark:
    return Mark("line", {"x1": f"{x:.1f}", "x2": f"{x:.1f}", "y1": f"{top}", "y2": f"{bottom}"}, style)
