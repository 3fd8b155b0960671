"""The numbers of a direction that the page shows: in its section, and those with a heading in the overview too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from skillaxes.report.filters import percent
from skillaxes.run_folder.contents import Direction
from skillaxes.run_folder.formats import POSITIVE, SIDES


@dataclass(frozen=True)
class Stat:
    """How one number of :attr:`Direction.stats` is shown.

    Attributes
    ----------
    key : its name there
    title : behind the number, in the direction's section; may name ``{side}`` and other numbers
    text : the number, and the length of the list that it is about, as text
    heading : of its column in the overview; None for no column
    help : one sentence on the heading, without its end
    is_doubtful : whether a value deserves a warning, given the length of the list
    absent : shown where there is no value; None to leave the number out
    by_side : whether it holds a value for each side
    """

    key: str
    title: str
    text: Callable[[Any, int], str]
    heading: str | None = None
    help: str | None = None
    is_doubtful: Callable[[Any, int], bool] = lambda value, n_listed: False
    absent: str | None = None
    by_side: bool = False


@dataclass(frozen=True)
class Figure:
    """One number of one direction, ready to be shown."""

    text: str
    title: str
    is_doubtful: bool


SPLIT_HALF = Stat(
    "split_half",
    "halves agree",
    lambda value, _: f"{value:.2f}",
    heading="Halves agree",
    help="|cos| between the directions of two random halves of the rows",
    is_doubtful=lambda value, _: value < 0.9,
    absent="–",
)
STATS = (
    Stat("explained_variance_ratio", "of the variance", lambda value, _: percent(value), heading="Variance"),
    Stat("residual", "residual", lambda value, _: f"{value:.1e}"),
    Stat("angle_bound", "angle error, {bound}", lambda value, _: f"≤ {value:.1e}"),
    SPLIT_HALF,
    Stat(
        "settled",
        "settled, {side}",
        lambda value, n_listed: f"{value} of {n_listed}",
        is_doubtful=lambda value, n_listed: value < n_listed,
        by_side=True,
    ),
    Stat(
        "norm_correlation",
        "correlation with row norm",
        lambda value, _: f"{value:+.2f}",
        is_doubtful=lambda value, _: abs(value) >= 0.3,
    ),
    Stat("shared_top", "rows in both rankings", lambda value, n_listed: f"{value:g} of {n_listed}"),
)
COLUMNS = tuple(stat for stat in STATS if stat.heading)


def figures(direction: Direction) -> list[Figure]:
    """The numbers of a direction's section."""
    return [figure for stat in STATS for figure in _shown(stat, direction)]


def figure(stat: Stat, direction: Direction) -> Figure:
    """The number in a column of the overview."""
    [found] = _shown(stat, direction)
    return found


def _shown(stat: Stat, direction: Direction) -> Iterator[Figure]:
    value = direction.stats.get(stat.key)
    # Both lists are equally long: a number of both is held against either.
    values = {side: (value or {}).get(side) for side in SIDES} if stat.by_side else {POSITIVE: value}
    for side, of_side in values.items():
        title = stat.title.format(side=side, bound=direction.stats.get("bound", "estimated"))
        if of_side is not None:
            n_listed = len(direction.ends[side])
            yield Figure(stat.text(of_side, n_listed), title, stat.is_doubtful(of_side, n_listed))
        elif stat.absent is not None:
            yield Figure(stat.absent, title, False)
