"""What a labeler is: two methods. A new one goes into a file of its own and into :func:`skillaxes.labeling.label`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from skillaxes.labeling.labels import Label, Usage
from skillaxes.labeling.texts import Trace


class Judge(Protocol):
    """Applies a label to texts that the labeler has not seen."""

    def pair(self, one: Trace, other: Trace) -> float:
        """One of each group, order unknown to the judge: 1.0 if it takes ``one`` for the first group's both ways
        round, 0.0 if it takes ``other`` for it, 0.5 if its answer hangs on the order.

        Raises
        ------
        LabelFailure : no usable answer
        """

    def detect(self, trace: Trace) -> str:
        """``first``, ``second`` or ``neither``.

        Raises
        ------
        LabelFailure : no usable answer
        """


class Labeler(Protocol):
    """Names what tells two groups of texts apart, and judges texts by that name.

    ``purpose`` says what a call is for, e.g. ``component 3``; usage is counted by it.

    Attributes
    ----------
    name : as on the command line
    kind : ``words`` or ``name``
    workers : calls that may be under way at once
    """

    name: str
    kind: str
    workers: int

    def label(self, first: Sequence[Trace], second: Sequence[Trace], purpose: str) -> Label:
        """Label two groups.

        Raises
        ------
        LabelFailure : no label came of it
        """

    def judge(self, label: Label, purpose: str) -> Judge:
        """A judge that knows this label, and no text that it was made from beyond what the label says."""

    def usage(self, purpose: str | None = None) -> Usage:
        """What the replies for one purpose took, or for all of them."""

    def describe(self) -> dict[str, Any]:
        """``model``, ``base_url`` and the like, for the record."""

    def spent(self) -> float | None:
        """Dollars spent by this process; None where the model's price is unknown."""

    def stopped_by_cost(self) -> bool:
        """Whether something was not sent because it might have cost too much."""

    def notes(self) -> tuple[str, ...]:
        """What the user should know about how it went."""

    def close(self) -> None:
        """Let go of connections and files."""
