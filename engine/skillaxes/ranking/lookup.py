"""Rows of the whole store against the components, from whichever process keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from skillaxes.cluster.world import World
from skillaxes.pca.projections import BLOCK_ROWS
from skillaxes.ranking.rows import KeptRows, RowBlock


class Lookup(Protocol):
    """What tables ask of rows."""

    def at(self, rows: np.ndarray) -> RowBlock:
        """Some rows, by their global numbers, in that order."""

    def norms(self, rows: np.ndarray) -> np.ndarray:
        """|x| of some rows, float32."""


@dataclass(frozen=True)
class FoundRows:
    """The rows that tables ask for, gathered from all processes.

    Attributes
    ----------
    rows : ndarray of shape (n,), int64, ascending
    block : the same rows against the k components
    listed, norm : ndarrays of shape (m,), int64 ascending and float32: rows whose norm alone is asked for
    """

    rows: np.ndarray
    block: RowBlock
    listed: np.ndarray
    norm: np.ndarray

    def at(self, rows: np.ndarray) -> RowBlock:
        place = torch.from_numpy(np.searchsorted(self.rows, rows))
        block = self.block
        return RowBlock(
            -1,
            block.projection[place],
            block.raw[place],
            block.norm[place],
            block.centered_norm[place],
            block.bad[place],
        )

    def norms(self, rows: np.ndarray) -> np.ndarray:
        return self.norm[np.searchsorted(self.listed, rows)]


def look_up(kept: KeptRows, rows: np.ndarray, listed: np.ndarray, n_components: int, world: World) -> Lookup:
    """What tables will ask for; every process is given the same rows, and gives its own ones.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64, ascending: rows whose scores are asked for
    listed : ndarray of shape (m,), int64, ascending: rows whose norms are asked for
    """
    if world.size == 1:
        return kept
    mine, also = _own(kept, rows), _own(kept, listed)
    blocks = [kept.at(part) for part in np.array_split(mine, max(1, -(-len(mine) // BLOCK_ROWS)))]
    parts = world.gather(
        (
            torch.cat([block.projection[:, :n_components] for block in blocks]),
            torch.cat([block.raw[:, :n_components] for block in blocks]),
            torch.cat([block.norm for block in blocks]),
            torch.cat([block.centered_norm for block in blocks]),
            torch.cat([block.bad for block in blocks]),
        )
    )
    columns = [torch.cat([part[number] for part in parts]) for number in range(5)]
    return FoundRows(rows, RowBlock(-1, *columns), listed, np.concatenate(world.gather(kept.norms(also))))


def _own(kept: KeptRows, rows: np.ndarray) -> np.ndarray:
    return rows[(rows >= kept.first_row) & (rows < kept.first_row + kept.n_rows)]
