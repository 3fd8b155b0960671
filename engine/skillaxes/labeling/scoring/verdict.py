"""The verdict on a label: whether its score beats the baselines, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skillaxes.labeling.scoring.baselines import NullScores, beats
from skillaxes.labeling.scoring.evaluate import Scores
from skillaxes.labeling.scoring.scores import FEWEST_PAIRS
from skillaxes.run_folder.schema import REPRODUCIBLE


@dataclass(frozen=True)
class Verdict:
    """Whether a label survives, and the reasons."""

    survives: bool
    text: str

    def as_dict(self) -> dict[str, Any]:
        return {"survives": self.survives, "text": self.text}


def judge_score(
    scores: Scores, random_directions: NullScores, random_orders: NullScores, split_half: float | None
) -> Verdict:
    """The verdict on a label.

    It survives when its score is better than chance (Wilson's interval), than text length on the same pairs (sign
    test), than the 95th percentile of random directions and of random orders, when it holds on texts of other kinds
    where that could be tested, and when the direction is stable.
    """
    score = scores.pairs
    if score is None or scores.length is None:
        if scores.asked < FEWEST_PAIRS:
            return Verdict(False, f"not scored: {scores.asked} blind pairs, and it takes {FEWEST_PAIRS}")
        return Verdict(False, f"not scored: the judge gave no answer ({scores.failures[0].kind})")
    against, beaten = [], []
    if not score.significant:
        against.append("no better than chance")
    if beats(score.credits, scores.length.credits):
        beaten.append("length")
    else:
        against.append("no better than text length")
    for name, null in (("random directions", random_directions), ("random orders", random_orders)):
        if null.p95 is None:
            continue
        if score.accuracy > null.p95:
            beaten.append(name)
        else:
            against.append(f"no better than {name}")
    if scores.disjoint is not None and not scores.disjoint.significant:
        against.append("does not hold on texts of other kinds")
    if split_half is not None and split_half < REPRODUCIBLE:
        against.append(f"sample-dependent (split half {split_half:.2f})")
    if not against:
        return Verdict(True, f"beats {_listed(beaten)}")
    return Verdict(False, "; ".join(against))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
