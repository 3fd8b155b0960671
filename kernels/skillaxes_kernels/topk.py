"""Top-k lists of both sides, streamed: init, update block by block, merge in any order, finalize.

Everything stays on the device of the scores; on a GPU nothing waits for it. Ties go to the lower row, whatever the
order of updates and merges, so that chunking, threads and processes do not change a list.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_EMPTY = torch.iinfo(torch.int64).max  # the row of an empty position: loses every tie
_SIDES = {"both": (0, 1), "positive": (0,), "negative": (1,)}


@dataclass(frozen=True)
class TopKList:
    """The most extreme rows of ``n_lists`` lists on one side.

    values : Tensor of shape (n_lists, k), the scores, most extreme first; NaN at an empty position
    rows : int64 Tensor of shape (n_lists, k); -1 at an empty position
    """

    values: Tensor
    rows: Tensor


@dataclass(frozen=True)
class TopKLists:
    """Both sides: the largest scores (``positive``) and the smallest (``negative``)."""

    positive: TopKList
    negative: TopKList


@dataclass(frozen=True)
class TopK:
    """The lists so far. ``values`` (2, n_lists, k) holds scores for side 0 and negated scores for side 1."""

    values: Tensor
    rows: Tensor

    @staticmethod
    def init(n_lists: int, k: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> TopK:
        """Empty lists for scores of ``dtype`` on ``device``.

        Raises
        ------
        ValueError : ``n_lists`` or ``k`` below 1, or ``dtype`` neither float32 nor float64
        """
        if n_lists < 1 or k < 1:
            raise ValueError(f"top-k lists need n_lists >= 1 and k >= 1, got n_lists={n_lists} and k={k}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"scores are ranked in float32 or float64, got {dtype}; convert them first")
        values = torch.full((2, n_lists, k), -torch.inf, dtype=dtype, device=device)
        return TopK(values, torch.full((2, n_lists, k), _EMPTY, dtype=torch.int64, device=device))

    def update(self, scores: Tensor, first_row: int, valid: Tensor | None = None, side: str = "both") -> TopK:
        """The lists after rows ``first_row`` .. ``first_row + b - 1``; this value stays as it was.

        Parameters
        ----------
        scores : Tensor of shape (b, n_lists) in the dtype of the lists. NaN and infinity are never ranked.
        first_row : the row index of ``scores[0]``
        valid : bool Tensor of shape (b,), rows that may be ranked; None for all
        side : "both", "positive" or "negative"

        Raises
        ------
        ValueError : scores of another dtype or number of lists, or an unknown side
        """
        n_lists, k = self.values.shape[1:]
        if scores.dtype != self.values.dtype or scores.ndim != 2 or scores.shape[1] != n_lists:
            raise ValueError(
                f"scores of shape (b, {n_lists}) and dtype {self.values.dtype} are needed, "
                f"got {tuple(scores.shape)} and {scores.dtype}"
            )
        if side not in _SIDES:
            raise ValueError(f"side is 'both', 'positive' or 'negative', got {side!r}")
        numbers = torch.arange(first_row, first_row + len(scores), device=scores.device)
        if not _never_waits(scores.device):
            # Once the lists are full, hardly a row reaches their last places.
            reach = [scores >= self.values[0, :, -1], scores <= -self.values[1, :, -1]]
            near = torch.stack([reach[s].any(dim=1) for s in _SIDES[side]]).any(dim=0)
            scores, numbers, valid = scores[near], numbers[near], None if valid is None else valid[near]
        scores = scores.T  # (n_lists, b)
        usable = torch.isfinite(scores) if valid is None else torch.isfinite(scores) & valid
        values, rows = self.values.clone(), self.rows.clone()
        for s in _SIDES[side]:
            signed = torch.where(usable, scores if s == 0 else -scores, -torch.inf)
            found = _candidates(signed, numbers, k)
            values[s], rows[s] = _best(*_joined((values[s], rows[s]), found), k)
        return TopK(values, rows)

    def merge(self, other: TopK) -> TopK:
        """The lists of two disjoint sets of rows. Associative and commutative.

        Raises
        ------
        ValueError : lists of another number, length or dtype
        """
        if self.values.shape != other.values.shape or self.values.dtype != other.values.dtype:
            raise ValueError(
                f"lists of shape {tuple(self.values.shape)} and dtype {self.values.dtype} cannot merge with "
                f"{tuple(other.values.shape)} and {other.values.dtype}"
            )
        return TopK(*_best(*_joined((self.values, self.rows), (other.values, other.rows)), self.values.shape[-1]))

    def finalize(self) -> TopKLists:
        """The lists as scores and rows."""
        empty = self.rows == _EMPTY
        values = torch.where(empty, torch.nan, self.values)
        rows = torch.where(empty, -1, self.rows)
        return TopKLists(TopKList(values[0], rows[0]), TopKList(-values[1], rows[1]))


def _joined(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat((a[0], b[0]), dim=-1), torch.cat((a[1], b[1]), dim=-1)


def _best(values: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k by descending value, then ascending row."""
    by_row = torch.argsort(rows, dim=-1, stable=True)
    values, rows = values.gather(-1, by_row), rows.gather(-1, by_row)
    by_value = torch.argsort(values, dim=-1, descending=True, stable=True)[..., :k]
    return values.gather(-1, by_value), rows.gather(-1, by_value)


def _candidates(scores: Tensor, numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of each row of ``scores`` (n_lists, b) the first k: values and their ``numbers`` (b,)."""
    if scores.shape[1] > 2 * k:
        places = _select(scores, k)  # (n_lists, k)
        scores, numbers = scores.gather(-1, places), numbers[places]
    else:
        numbers = numbers.expand(scores.shape)
    return scores, torch.where(scores == -torch.inf, _EMPTY, numbers)


def _select(scores: Tensor, k: int) -> Tensor:
    """Places of the k largest of each row, ties to the lower place; ``torch.topk`` alone leaves ties open."""
    last = torch.topk(scores, k, dim=-1).values[:, -1:]
    above, level = scores > last, scores == last
    kept = above | (level & (level.cumsum(dim=-1) <= k - above.sum(dim=-1, keepdim=True)))
    order = torch.arange(scores.shape[-1], 0, -1, device=scores.device)  # larger for lower places
    return torch.topk(torch.where(kept, order, 0), k, dim=-1).indices


def _never_waits(device: torch.device) -> bool:
    # The host would have to wait for the number of rows that a filter on a GPU lets through.
    return device.type != "cpu"
