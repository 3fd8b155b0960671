"""The interface of labelers and judges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from skillaxes.labeling.labels import Label, Usage
from skillaxes.run_folder.labels import NAME

if TYPE_CHECKING:
    from typing import Self

    from skillaxes.labeling.examples import DirectionExamples, Examples
    from skillaxes.labeling.options import LabelOptions
    from skillaxes.labeling.texts import Trace
    from skillaxes.progress import Progress


class Judge(Protocol):
    """Applies a label to texts that the labeler has not seen."""

    def pair(self, one: Trace, other: Trace) -> float:
        """Pick the positive text of a pair, one from each group, in an order that the judge does not know.

        Returns
        -------
        1.0 if ``one`` is picked in both orders, 0.0 if ``other`` is, 0.5 if the answer depends on the order

        Raises
        ------
        LabelFailure : no usable answer
        """

    def detect(self, trace: Trace) -> str:
        """The group of a text: one of ``labels.GROUPS``.

        Raises
        ------
        LabelFailure : no usable answer
        """


class RequestSizes(Protocol):
    """Input tokens of the requests that a labeler would send for a direction."""

    def label(self, direction: DirectionExamples) -> int:
        """Tokens of the request for a label; 0 if it would not fit and so would not be sent."""

    def pair(self, direction: DirectionExamples) -> int:
        """Mean tokens of a request to judge a pair."""

    def detection(self, direction: DirectionExamples) -> int:
        """Mean tokens of a request to judge a single text."""

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """Dollars for so many tokens; None where the model's price is unknown."""


class Labeler(ABC):
    """Finds the difference between two groups of texts, and judges further texts by it.

    A labeler has a name and two methods, ``label`` and ``judge``; the defaults here are those of a labeler that runs
    on this machine and costs nothing. ``usage_key`` says what a call is for, e.g. ``component 3``; usage is summed by
    it. Up to ``workers`` threads call ``label``, and the judges, at a time.

    Attributes
    ----------
    name : as typed after ``--labeler``
    summary : a few words for the help of ``--labeler``
    kind : ``WORDS`` or ``NAME`` of :mod:`skillaxes.run_folder.labels`
    offline : whether it sends nothing anywhere
    default_baselines : random directions and random orders to score where ``--baselines`` is not given
    result_options : options of the server that change its labels; other labelers ignore them
    workers : calls at a time
    """

    name: ClassVar[str]
    summary: ClassVar[str] = "offline, free"
    kind: ClassVar[str] = NAME
    offline: ClassVar[bool] = True
    default_baselines: ClassVar[int] = 20
    result_options: ClassVar[frozenset[str]] = frozenset()
    workers: int = 1

    @classmethod  # noqa: B027
    def check(cls, options: LabelOptions) -> None:
        """Refuse options that this labeler cannot serve; reads no file of the run folder.

        Raises
        ------
        UsageError : e.g. no API key
        """

    @classmethod
    def build(cls, options: LabelOptions, run_dir: Path) -> Self:
        """The labeler of a job; called before the texts are read.

        Raises
        ------
        UsageError : as ``check``
        """
        cls.check(options)
        return cls()

    @classmethod
    def request_sizes(cls, options: LabelOptions) -> RequestSizes | None:
        """Sizes of the requests it would send, for an estimate; None if it sends none."""
        return None

    def prepare(self, examples: Examples, progress: Progress) -> None:  # noqa: B027
        """Take in the texts of the job; called once, before the first label."""

    @abstractmethod
    def label(self, positive: Sequence[Trace], negative: Sequence[Trace], usage_key: str) -> Label:
        """Label two groups of texts.

        Raises
        ------
        LabelFailure : no label could be had
        """

    @abstractmethod
    def judge(self, label: Label, usage_key: str) -> Judge:
        """A judge that knows this label, and of the texts behind it only as much as the label says."""

    def usage(self, usage_key: str | None = None) -> Usage:
        """The usage under one key, or in all."""
        return Usage()

    def describe(self) -> dict[str, Any]:
        """The model behind the labels: the fields ``model``, ``base_url`` and ``rung`` of a record."""
        return {"model": None, "base_url": None, "rung": None}

    def spent(self) -> float | None:
        """Dollars spent by this process; None where the model's price is unknown."""
        return 0.0

    def stopped_by_cost(self) -> bool:
        """Whether ``max_cost`` kept a request from being sent."""
        return False

    def notes(self) -> tuple[str, ...]:
        """Remarks for the user at the end of the job, one sentence each."""
        return ()

    def close(self) -> None:  # noqa: B027
        """Close connections and files."""
