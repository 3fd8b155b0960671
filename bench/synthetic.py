"""Synthetic activation matrices with known structure, from a seed, at any size, in bounded memory.

A row is ``mean + sum_j sqrt(lambda_j) g_j u_j + tail``: up to 64 dense orthonormal directions u_j carry the head of the
spectrum, independent noise in every column, of column-dependent size, carries the rest of it. As in real activations
(the shapes follow residual streams of a small language model) the mean is four times longer than the spread
around it, eight columns hold most of the mean, and the leading directions lean on those columns.

Rows come in blocks, each from its own random stream, so that any block can be made alone, on any number of workers,
and a store of fewer rows is a prefix of a larger one of the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SPECTRA = ("power", "flat", "planted")
DTYPES = ("float16", "bfloat16", "float32")

# Random streams of one seed; a block of rows adds its number.
_STRUCTURE, _COEFFICIENTS, _NOISE = range(3)

# Shares of the largest entry of the mean that the huge columns have.
_HUGE = np.array([1.0, 0.6, 0.4, 0.4, -0.22, 0.21, -0.19, -0.17])
_HEAD = 64  # dense directions
_BLOCK_ELEMENTS = 1 << 22  # 16 MiB of float32: what a core's caches and a worker's memory take


@dataclass(frozen=True)
class Recipe:
    """The recipe of a matrix.

    Attributes
    ----------
    rows, columns : shape of the matrix
    dtype : ``float16``, ``bfloat16`` or ``float32``
    spectrum : ``power``: eigenvalues fall as j**-exponent over all columns; ``flat``: all are equal, so that only
        chance tells directions apart; ``planted``: the head of the power law and nothing else, so that the exact
        directions of these very rows follow from their coefficients (:func:`planted_directions`)
    exponent : of the power law
    mean_ratio : length of the mean over the root mean squared distance from it
    seed : of everything
    """

    rows: int
    columns: int
    dtype: str = "float16"
    spectrum: str = "power"
    exponent: float = 1.25
    mean_ratio: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 2:
            raise ValueError(f"{self.rows} x {self.columns}: needs at least 1 row and 2 columns")
        if self.spectrum not in SPECTRA:
            raise ValueError(f"spectrum {self.spectrum!r}: is not one of {', '.join(SPECTRA)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: is not one of {', '.join(DTYPES)}")

    @property
    def name(self) -> str:
        """A file name that no other recipe has."""
        shape = f"{self.rows}x{self.columns}-{self.dtype}"
        return f"{self.spectrum}-{shape}-e{self.exponent:g}-m{self.mean_ratio:g}-s{self.seed}"

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        return self.rows * self.columns * (4 if self.dtype == "float32" else 2)

    @property
    def block_rows(self) -> int:
        """Rows of a block. They depend on the columns alone, so that fewer rows are a prefix of more."""
        return max(64, _BLOCK_ELEMENTS // self.columns)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        return asdict(self)


class Generator:
    """Generator of blocks of rows of a :class:`Recipe`; holds some 65 x columns floats."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """Population eigenvalues in descending order, (columns,) float64; their sum is the number of columns."""
        order = np.arange(1, self.recipe.columns + 1, dtype=np.float64)
        if self.recipe.spectrum == "flat":
            return np.ones_like(order)
        values = order**-self.recipe.exponent
        if self.recipe.spectrum == "planted":
            values[self.n_head :] = 0
        return values * (self.recipe.columns / values.sum())

    @property
    def n_head(self) -> int:
        """Number of dense directions."""
        return 0 if self.recipe.spectrum == "flat" else min(_HEAD, self.recipe.columns // 2)

    @cached_property
    def huge_columns(self) -> np.ndarray:
        """Indices of the columns that hold most of the mean, at most eight."""
        count = min(len(_HUGE), self.recipe.columns // 2)
        return self._structure(0).permutation(self.recipe.columns)[:count]

    @cached_property
    def mean(self) -> np.ndarray:
        """Population mean, (columns,) float64."""
        columns = self.recipe.columns
        mean = self._structure(1).standard_normal(columns)
        huge = _HUGE[: len(self.huge_columns)]
        length = self.recipe.mean_ratio * np.sqrt(columns)
        # 95% of the squared length lies in the huge columns, the rest is spread.
        mean[self.huge_columns] = 0
        mean *= length * np.sqrt(0.05) / np.linalg.norm(mean)
        mean[self.huge_columns] = huge * (length * np.sqrt(0.95) / np.linalg.norm(huge))
        return mean

    @cached_property
    def directions(self) -> np.ndarray:
        """Dense directions, (n_head, columns) float64, orthonormal rows in the order of their eigenvalues."""
        rough = self._structure(2).standard_normal((self.recipe.columns, self.n_head))
        rough[self.huge_columns] *= 20
        return np.linalg.qr(rough)[0].T.copy()

    @cached_property
    def _tail(self) -> np.ndarray:
        """Standard deviation of every column's own noise, (columns,) float32."""
        tail = np.zeros(self.recipe.columns)
        values = self.eigenvalues[self.n_head :]
        tail[self._structure(3).permutation(self.recipe.columns)[: len(values)]] = np.sqrt(values)
        return tail.astype(np.float32)

    def coefficients(self, block: int) -> np.ndarray:
        """Coefficients of the dense directions of a block's rows, (b, n_head) float64."""
        return self._coefficients(block)[: self._rows_in(block)]

    def _coefficients(self, block: int) -> np.ndarray:
        drawn = self._random(_COEFFICIENTS, block).standard_normal((self.recipe.block_rows, self.n_head))
        return drawn * np.sqrt(self.eigenvalues[: self.n_head])

    def block(self, block: int) -> torch.Tensor:
        """The rows of a block, (b, columns), in the recipe's dtype."""
        import torch

        # Always a whole block, cut at the end: a product's last bits depend on how many rows it has.
        rows = np.empty((self.recipe.block_rows, self.recipe.columns), dtype=np.float32)
        if self.recipe.spectrum == "planted":
            rows[:] = 0
        else:
            self._random(_NOISE, block).standard_normal(out=rows, dtype=np.float32)
            rows *= self._tail
        # The mean rides along as one more direction, whose coefficient is 1.
        weights = np.concatenate([self._coefficients(block), np.ones((len(rows), 1))], axis=1)
        panel = torch.from_numpy(rows)
        panel.addmm_(torch.from_numpy(weights.astype(np.float32)), self._basis)
        return panel[: self._rows_in(block)].to(getattr(torch, self.recipe.dtype))

    @cached_property
    def _basis(self) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.vstack([self.directions, self.mean]).astype(np.float32))

    @property
    def n_blocks(self) -> int:
        """Number of blocks; the last one may have fewer rows."""
        return -(-self.recipe.rows // self.recipe.block_rows)

    def blocks(self, workers: int = 1) -> Iterator[torch.Tensor]:
        """All blocks in order, made by some workers of one thread each, a bounded number of them ahead."""
        import torch

        _ = self._basis, self._tail  # made once, before the workers race for them
        threads = torch.get_num_threads()
        try:
            # One thread a product: its last bits depend on how many threads share it.
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                ahead = [pool.submit(self.block, block) for block in range(min(workers + 1, self.n_blocks))]
                for block in range(self.n_blocks):
                    following = block + workers + 1
                    rows = ahead.pop(0).result()
                    if following < self.n_blocks:
                        ahead.append(pool.submit(self.block, following))
                    yield rows
        finally:
            torch.set_num_threads(threads)

    def _rows_in(self, block: int) -> int:
        start = block * self.recipe.block_rows
        if not 0 <= start < self.recipe.rows:
            raise IndexError(f"block {block}: there are {self.n_blocks}")
        return min(self.recipe.block_rows, self.recipe.rows - start)

    def _structure(self, part: int) -> np.random.Generator:
        return self._random(_STRUCTURE, part)

    def _random(self, stream: int, block: int) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence((self.recipe.seed, stream, block))))


def planted_directions(recipe: Recipe, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact directions and eigenvalues of a ``planted`` matrix, without looking at the matrix.

    Its centred rows lie in the span of the planted directions, so the eigenproblem of 64 x 64 of their coefficients'
    covariance gives them. They are exact for the matrix before its entries were rounded to the recipe's dtype.

    Returns
    -------
    directions : (count, columns) float64, unit rows
    eigenvalues : (count,) float64, of the covariance with denominator rows - 1
    """
    if recipe.spectrum != "planted":
        raise ValueError(f"spectrum {recipe.spectrum!r}: only a planted one is known without the rows")
    generator = Generator(recipe)
    if count > generator.n_head:
        raise ValueError(f"{count} directions: {generator.n_head} are planted")
    total = np.zeros(generator.n_head)
    products = np.zeros((generator.n_head, generator.n_head))
    for block in range(generator.n_blocks):
        weights = generator.coefficients(block)
        total += weights.sum(axis=0)
        products += weights.T @ weights
    covariance = (products - np.outer(total, total) / recipe.rows) / max(recipe.rows - 1, 1)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    order = np.argsort(eigenvalues)[::-1][:count]
    return vectors[:, order].T @ generator.directions, eigenvalues[order]


def write_store(recipe: Recipe, path: Path, workers: int = 1) -> None:
    """Write the matrix to a store with the layout that ``ingest`` gives."""
    from skillaxes.store import create_store

    with create_store(path, n_rows=recipe.rows, n_features=recipe.columns, dtype=recipe.dtype) as writer:
        for rows in Generator(recipe).blocks(workers):
            writer.append(rows)
