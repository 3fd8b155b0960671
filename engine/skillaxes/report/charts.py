"""Charts as inline SVG and plain HTML: no script, no library, both colour schemes by style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skillaxes.report.html import Markup, element
from skillaxes.report.numbers import percent, plain
from skillaxes.run_folder.contents import Histogram

_WIDTH, _HEIGHT = 480, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 16, 22  # margins around the plot


def _svg(title: str, *children: object, height: int = _HEIGHT) -> Markup:
    return element(
        "svg", element("title", title), *children, viewBox=f"0 0 {_WIDTH} {height}", role="img", class_="chart"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", class_: str | None = None) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def _rect(x: float, y: float, width: float, height: float, class_: str, title: str | None = None) -> Markup:
    children = [element("title", title)] if title else []
    return element(
        "rect", *children, x=f"{x:.2f}", y=f"{y:.2f}", width=f"{max(0.0, width):.2f}", height=f"{max(0.0, height):.2f}",
        class_=class_,
    )  # fmt: skip


def scree(ratios: Sequence[float]) -> Markup:
    """Share of the variance of each direction, one bar each."""
    k = len(ratios)
    most = max([*ratios, 1e-12])
    slot = (_WIDTH - _LEFT - _RIGHT) / k
    floor, tall = _HEIGHT - _BOTTOM, _HEIGHT - _TOP - _BOTTOM
    every = -(-k // 20)  # labels that still stand apart
    marks: list[Markup] = []
    for index, ratio in enumerate(ratios):
        x, height = _LEFT + index * slot, tall * ratio / most
        marks.append(
            _rect(x + slot * 0.12, floor - height, slot * 0.76, height, "bar", f"direction {index}: {percent(ratio)}")
        )
        if index % every == 0:
            marks.append(_text(x + slot / 2, _HEIGHT - 7, str(index)))
        if k <= 12:
            marks.append(_text(x + slot / 2, floor - height - 4, percent(ratio), class_="value"))
    axis = element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=floor, y2=floor, class_="axis")
    return _svg("Share of the variance of each direction", marks, axis)


def histogram(title: str, data: Histogram, low: float | None, high: float | None) -> Markup:
    """How the rows spread over a score; beyond ``low`` and ``high`` lie the ends that were kept."""
    edges, counts = data.edges, data.counts
    floor, tall = _HEIGHT - _BOTTOM, _HEIGHT - _TOP - _BOTTOM
    first, span = float(edges[0]), float(edges[-1] - edges[0]) or 1.0

    def at(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - first) / span

    most = max(1, int(counts.max()))
    bars = []
    for left, right, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True):
        if not count:
            continue
        side = (
            "positive" if high is not None and left >= high else "negative" if low is not None and right <= low else ""
        )
        # A bin with one row in a million must still be seen.
        height = max(1.0, tall * count / most)
        label = f"{plain(left)} to {plain(right)}: {count:,} rows"
        bars.append(_rect(at(left), floor - height, at(right) - at(left) - 0.4, height, f"bar {side}".strip(), label))
    marks = []
    for value, side in ((low, "negative"), (high, "positive")):
        if value is not None and first <= value <= float(edges[-1]):
            x = f"{at(value):.1f}"
            marks.append(element("line", x1=x, x2=x, y1=_TOP - 4, y2=floor, class_=f"threshold {side}"))
    axis = [
        element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=floor, y2=floor, class_="axis"),
        _text(_LEFT, _HEIGHT - 7, plain(first), "start"),
        _text(_WIDTH - _RIGHT, _HEIGHT - 7, plain(float(edges[-1])), "end"),
    ]
    if first < -0.12 * span and float(edges[-1]) > 0.12 * span:
        zero = f"{at(0):.1f}"
        axis += [
            element("line", x1=zero, x2=zero, y1=floor, y2=floor + 5, class_="axis"),
            _text(at(0), _HEIGHT - 7, "0"),
        ]
    return element("figure", element("figcaption", title), _svg(title, bars, marks, axis))


def layer_table(ids: Sequence[int], variance: Sequence[float], energies: Sequence[Sequence[float]]) -> Markup:
    """Energy by layer: one row for the data, one for each direction; the darker, the more."""

    def cells(values: Sequence[float]) -> list[Markup]:
        return [
            element("td", f"{100 * v:.0f}", style=f"--v:{min(1.0, max(0.0, v)):.3f}", class_="heat") for v in values
        ]

    head = element("tr", element("th", "layer", scope="row"), [element("th", i, scope="col") for i in ids])
    rows = [element("tr", element("th", "variance", scope="row"), cells(variance), class_="all")] if variance else []
    rows += [
        element("tr", element("th", element("a", index, href=f"#d{index}"), scope="row"), cells(energy))
        for index, energy in enumerate(energies)
    ]
    return element(
        "div", element("table", element("thead", head), element("tbody", rows), class_="layers"), class_="scroll"
    )


def layer_strip(ids: Sequence[int], energy: Sequence[float]) -> Markup:
    """One direction's energy by layer."""
    cells = [
        element(
            "span",
            element("b", f"{100 * v:.0f}%"),
            f"layer {i}",
            style=f"--v:{min(1.0, max(0.0, v)):.3f}",
            class_="heat",
        )
        for i, v in zip(ids, energy, strict=False)
    ]
    return element("div", cells, class_="strip")


def interval(name: str, figure: dict[str, Any], kind: str) -> Markup | None:
    """A score between 0 and 1 on a line with chance at one half; None without a figure.

    ``figure`` has ``accuracy`` with ``low`` and ``high``, or ``p95``.
    """
    value = figure.get("accuracy", figure.get("p95"))
    if value is None:
        return None
    low, high = figure.get("low"), figure.get("high")
    bar = (
        element("i", class_="span", style=f"left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%")
        if low is not None and high is not None
        else None
    )
    between = f" ({low:.2f} to {high:.2f})" if bar else ""
    return element(
        "div",
        element("span", name, class_="name"),
        element(
            "span",
            element("i", class_="chance"),
            bar,
            element("i", class_="dot", style=f"left:{100 * value:.1f}%"),
            class_="line",
        ),
        element("span", f"{value:.2f}", element("small", between), class_="number"),
        class_=f"interval {kind}",
    )
