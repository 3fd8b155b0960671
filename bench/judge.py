"""An answer held against the exact one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.reference import Reference


@dataclass(frozen=True)
class Answer:
    """What a program found.

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
        """Read ``directions.safetensors`` and ``topk.parquet`` of a run folder."""
        import pyarrow.parquet as pq
        from safetensors.numpy import load_file

        from skillaxes.run_folder import schema as formats

        directions = load_file(folder / formats.DIRECTIONS)["components"]
        return cls.from_lists(directions, pq.read_table(folder / formats.TOPK))

    @classmethod
    def from_lists(cls, directions: np.ndarray, topk: Any) -> Answer:
        """From directions (k, d) and lists as ``topk.parquet`` has them."""
        from skillaxes.run_folder import schema as formats

        table = topk.to_pydict()
        lists: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for direction, side, position, row in zip(
            table["direction"], table["side"], table["position"], table["row"], strict=True
        ):
            lists.setdefault((direction, side), []).append((position, row))

        def rows(side: str) -> np.ndarray:
            return np.array([[row for _, row in sorted(lists[index, side])] for index in range(len(directions))])

        return cls(directions, rows(formats.POSITIVE), rows(formats.NEGATIVE))


def judge(reference: Reference, answer: Answer) -> dict[str, Any]:
    """How far an answer is from the exact one.

    Returns
    -------
    error : worst 1 - |cos| of all directions
    errors : of each direction
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
