"""Answers of programs, and their errors against the exact one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.reference import Reference

if TYPE_CHECKING:
    from skillaxes.run_folder.contents import Discovery


@dataclass(frozen=True)
class Answer:
    """The directions and lists that a program found.

    Attributes
    ----------
    directions : (k, d), rows in the order of their eigenvalues; any sign, any length
    positive, negative : (k, top) rows at both ends of each direction as given, the most extreme first
    """

    directions: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    def save(self, path: Path) -> None:
        """Write to an .npz file."""
        np.savez(path, directions=self.directions, positive=self.positive, negative=self.negative)

    @classmethod
    def load(cls, path: Path) -> Answer:
        """Read what :meth:`save` wrote."""
        with np.load(path) as file:
            return cls(file["directions"], file["positive"], file["negative"])

    @classmethod
    def from_run_folder(cls, folder: Path) -> Answer:
        """The answer in a run folder."""
        from skillaxes.run_folder.contents import load

        return cls.from_discovery(load(folder))

    @classmethod
    def from_discovery(cls, found: Discovery) -> Answer:
        """The answer in the result of a job."""
        from skillaxes.run_folder.schema import NEGATIVE, POSITIVE

        directions, table = found.directions.components, found.topk.to_pydict()
        lists: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for direction, side, position, row in zip(
            table["direction"], table["side"], table["position"], table["row"], strict=True
        ):
            lists.setdefault((direction, side), []).append((position, row))

        def rows(side: str) -> np.ndarray:
            return np.array([[row for _, row in sorted(lists[index, side])] for index in range(len(directions))])

        return cls(directions, rows(POSITIVE), rows(NEGATIVE))


def judge(reference: Reference, answer: Answer) -> dict[str, Any]:
    """The errors of an answer against the exact one.

    Returns
    -------
    error : worst 1 - |cos| of all directions
    errors : 1 - |cos| of each direction
    overlap : mean share of a list's rows that belong there, over both sides of all directions
    exact_lists, lists : how many lists are the same set of rows, of how many
    """
    found = answer.directions.astype(np.float64)
    if found.shape != reference.directions.shape:
        raise ValueError(f"directions of shape {found.shape}: the exact ones are {reference.directions.shape}")
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    found = found / lengths
    cosines = (found * reference.directions).sum(axis=1)
    # 1 - |cos| from the difference: the plain form loses everything below 1e-16 and much above it.
    signs = np.where(cosines < 0, -1.0, 1.0)
    errors = ((found * signs[:, None] - reference.directions) ** 2).sum(axis=1) / 2
    shares = []
    for index, sign in enumerate(signs):
        ends = (answer.positive[index], answer.negative[index])
        for found_rows, exact_rows in zip(
            ends if sign > 0 else ends[::-1], (reference.positive[index], reference.negative[index]), strict=True
        ):
            wanted = set(exact_rows.tolist())
            shares.append(len(wanted & set(found_rows.tolist())) / len(wanted))
    return {
        "error": float(errors.max()),
        "errors": errors.tolist(),
        "overlap": float(np.mean(shares)),
        "exact_lists": sum(share == 1.0 for share in shares),
        "lists": len(shares),
    }
