"""The numbers of a direction on the page, from the one list in :class:`skillaxes.run_folder.schema.DirectionStats`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skillaxes.run_folder.contents import Direction
from skillaxes.run_folder.schema import POSITIVE, SHOWN_STATS, SIDES, Stat

COLUMNS = {name: stat for name, stat in SHOWN_STATS.items() if stat.heading}


@dataclass(frozen=True)
class Figure:
    """One number of one direction, ready to be shown."""

    text: str
    title: str
    is_doubtful: bool


def figures(direction: Direction) -> list[Figure]:
    """The numbers of a direction's section."""
    return [figure for name, stat in SHOWN_STATS.items() for figure in _shown(name, stat, direction)]


def figure(name: str, direction: Direction) -> Figure:
    """The number in a column of the overview."""
    [found] = _shown(name, COLUMNS[name], direction)
    return found


def _shown(name: str, stat: Stat, direction: Direction) -> Iterator[Figure]:
    value = getattr(direction.stats, name)
    # Both lists are equally long: a number of both is held against either.
    values = {side: value.get(side) for side in SIDES} if stat.by_side else {POSITIVE: value}
    for side, of_side in values.items():
        title = stat.phrase.format(side=side, bound=direction.stats.bound or "estimated")
        if of_side is not None:
            n_listed = len(direction.ends[side])
            yield Figure(stat.page(of_side, n_listed), title, stat.warns(of_side, n_listed))
        elif stat.absent is not None:
            yield Figure(stat.absent, title, False)
