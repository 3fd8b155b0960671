"""Exact directions and lists of a store, in float64, kept beside it.

Two methods share no code with the engine: ``dense`` (the eigenvectors of the covariance or of the Gram matrix,
whichever is smaller) and ``krylov`` (block Lanczos with full reorthogonalisation, run until the residuals are 1e-10,
at which the angle to the exact direction is below 1e-10 over the relative gap). One more read gives the residuals of
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.panels import Rows
from bench.ranking import ends, with_signs

if TYPE_CHECKING:
    import torch

METHODS = ("auto", "dense", "krylov")

_DENSE_SIDE = 2048  # a full eigenproblem of this side takes seconds
_DENSE_WORK = 5e11  # floating point operations that its products may take
_GRAM_BYTES = 4 << 30  # rows of the store's dtype that the Gram matrix may hold in memory


@dataclass(frozen=True)
class Reference:
    """The exact directions and lists of a store.

    Attributes
    ----------
    directions : (k, d) float64, unit rows, signs as in :func:`bench.ranking.with_signs`
    eigenvalues : (k,) float64, of the covariance with denominator n_rows - 1
    next_eigenvalue : the one after the last of them, as well as known
    total_variance : the covariance's trace
    positive, negative : (k, top) int64, rows at both ends by the cosine of the raw row
    residuals : (k,) float64, |C v - lambda v| / lambda
    method : ``dense`` or ``krylov``
    """

    directions: np.ndarray
    eigenvalues: np.ndarray
    next_eigenvalue: float
    total_variance: float
    positive: np.ndarray
    negative: np.ndarray
    residuals: np.ndarray
    method: str

    def save(self, path: Path) -> None:
        """Write to an .npz file, whole or not at all."""
        partial = path.with_name("partial-" + path.name)
        np.savez(partial, **self.__dict__)
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what :meth:`save` wrote."""
        with np.load(path) as file:
            values: dict[str, Any] = {name: file[name] for name in file.files}
        for name in ("next_eigenvalue", "total_variance"):
            values[name] = float(values[name])
        return cls(**{**values, "method": str(values["method"])})


def path_of(store: Path, components: int, top: int) -> Path:
    """The file of a store's reference: beside the store, so that both are removed together."""
    return store.with_name(f"{store.name}.exact-{components}-{top}.npz")


def exact(store: Path, components: int, top: int, method: str = "auto", tolerance: float = 1e-10) -> Reference:
    """The exact answer, from the file beside the store where there is one.

    Parameters
    ----------
    method : one of :data:`METHODS`; ``auto`` takes ``dense`` where that is a matter of seconds
    tolerance : residual at which ``krylov`` stops

    Raises
    ------
    ValueError : another method
    ArithmeticError : ``krylov`` did not reach the tolerance
    """
    kept = path_of(store, components, top)
    if kept.exists():
        return Reference.load(kept)
    if method not in METHODS:
        raise ValueError(f"method {method!r}: is not one of {', '.join(METHODS)}")
    rows = Rows(store)
    moments = _Moments(rows)
    side = min(rows.n_rows, rows.n_features)
    if method == "auto":
        quick = side <= _DENSE_SIDE and 2.0 * rows.n_rows * rows.n_features * side <= _DENSE_WORK
        method = "dense" if quick else "krylov"
    if method == "dense":
        directions, further = _dense(rows, moments, components)
    else:
        directions, further = _krylov(rows, moments, components, tolerance)
    answer = _finish(rows, moments, directions, further, top, method)
    answer.save(kept)
    return answer


class _Moments:
    """Mean and total variance, in one read, from sums around the first row: the mean may dwarf the spread."""

    def __init__(self, rows: Rows) -> None:
        import torch

        shift = rows.read(0, 1)[0].double()
        total = torch.zeros(rows.n_features, dtype=torch.float64)
        squares = 0.0
        for _, panel in rows.panels(torch.float64, shift):
            total += panel.sum(dim=0)
            squares += float((panel * panel).sum())
        offset = total / rows.n_rows
        self.mean = shift + offset
        self.denominator = max(rows.n_rows - 1, 1)
        self.total_variance = (squares - rows.n_rows * float(offset @ offset)) / self.denominator


def _covariance_times(rows: Rows, moments: _Moments, block: torch.Tensor) -> torch.Tensor:
    """C @ block in one read; block is (d, l)."""
    import torch

    product = torch.zeros_like(block)
    for _, panel in rows.panels(torch.float64, moments.mean):
        product.addmm_(panel.T, panel @ block)
    return product / moments.denominator


def _dense(rows: Rows, moments: _Moments, components: int) -> tuple[torch.Tensor, float]:
    import torch

    if rows.n_features <= rows.n_rows:
        covariance = torch.zeros((rows.n_features, rows.n_features), dtype=torch.float64)
        for _, panel in rows.panels(torch.float64, moments.mean):
            covariance.addmm_(panel.T, panel)
        eigenvalues, vectors = torch.linalg.eigh(covariance / moments.denominator)
        directions = vectors.flip(1)[:, :components].T
    else:
        eigenvalues, vectors = torch.linalg.eigh(_gram(rows, moments) / moments.denominator)
        left = vectors.flip(1)[:, :components]
        product = torch.zeros((rows.n_features, components), dtype=torch.float64)
        for start, panel in rows.panels(torch.float64, moments.mean):
            product.addmm_(panel.T, left[start : start + len(panel)])
        directions = product.T / torch.linalg.vector_norm(product.T, dim=1, keepdim=True)
    falling = eigenvalues.flip(0)
    return directions, float(falling[components]) if len(falling) > components else 0.0


def _gram(rows: Rows, moments: _Moments) -> torch.Tensor:
    """The Gram matrix of the centred rows, (n, n), by blocks of columns, since rows are long and few."""
    import torch

    if rows.nbytes > _GRAM_BYTES:
        raise MemoryError(f"the Gram matrix holds {rows.nbytes:,} bytes of rows; at most {_GRAM_BYTES:,}: use krylov")
    held = rows.read(0, rows.n_rows)
    gram = torch.zeros((rows.n_rows, rows.n_rows), dtype=torch.float64)
    width = max(1, (1 << 27) // (8 * rows.n_rows))
    for left in range(0, rows.n_features, width):
        block = held[:, left : left + width].double() - moments.mean[left : left + width]
        gram.addmm_(block, block.T)
    return gram


def _krylov(rows: Rows, moments: _Moments, components: int, tolerance: float) -> tuple[torch.Tensor, float]:
    """Block Lanczos with full reorthogonalisation, done twice (Golub & Van Loan, section 10.3.6).

    Raises
    ------
    ArithmeticError : the residuals did not reach the tolerance
    """
    import torch

    side = min(rows.n_features, rows.n_rows)
    width = min(side, max(32, 2 * components))
    random = torch.Generator().manual_seed(20141)
    block = torch.randn((rows.n_features, width), generator=random, dtype=torch.float64)
    basis = torch.empty((rows.n_features, 0), dtype=torch.float64)
    images = torch.empty_like(basis)  # C @ basis
    worst = float("inf")
    for _ in range(80):
        block = block - basis @ (basis.T @ block)
        block = torch.linalg.qr(block)[0]
        block = torch.linalg.qr(block - basis @ (basis.T @ block))[0]
        image = _covariance_times(rows, moments, block)
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, image], dim=1)
        small = basis.T @ images
        eigenvalues, vectors = torch.linalg.eigh((small + small.T) / 2)
        order = torch.arange(len(eigenvalues) - 1, -1, -1)[: components + 1]
        values, weights = eigenvalues[order], vectors[:, order]
        directions = basis @ weights
        residuals = torch.linalg.vector_norm(images @ weights - directions * values, dim=0) / values.clamp_min(1e-300)
        worst = float(residuals[:components].max())
        remaining = rows.n_features - basis.shape[1]
        if worst <= tolerance or remaining == 0:
            break
        block = image[:, : min(width, remaining)]
    if worst > tolerance:
        raise ArithmeticError(
            f"the exact directions stalled at a residual of {worst:.1e}; {tolerance:.0e} was asked for"
        )
    return directions[:, :components].T, float(values[components]) if len(values) > components else 0.0


def captured(store: Path, directions: np.ndarray, reference: Reference) -> float:
    """Variance in the span of ``directions`` (k, d), over the most that k directions can hold. One read.

    Where eigenvalues are nearly equal, directions may be arbitrary within their span and still hold all the variance.
    """
    import torch

    rows = Rows(store)
    basis = torch.linalg.qr(torch.from_numpy(directions.astype(np.float64)).T)[0]
    held = (basis * _covariance_times(rows, _Moments(rows), basis)).sum()
    return float(held / reference.eigenvalues.sum())


def _finish(
    rows: Rows, moments: _Moments, directions: torch.Tensor, further: float, top: int, method: str
) -> Reference:
    """The reference with signs, residuals and lists, in two more reads."""
    import torch

    directions = with_signs(directions)
    image = _covariance_times(rows, moments, directions.T.contiguous())
    eigenvalues = (directions.T * image).sum(dim=0)
    residuals = torch.linalg.vector_norm(image - directions.T * eigenvalues, dim=0) / eigenvalues
    cosines = torch.empty((rows.n_rows, len(directions)), dtype=torch.float64)
    norms = torch.empty(rows.n_rows, dtype=torch.float64)
    for start, panel in rows.panels(torch.float64):
        part = slice(start, start + len(panel))
        norms[part] = torch.linalg.vector_norm(panel, dim=1)
        cosines[part] = panel @ directions.T / norms[part, None]
    positive, negative = ends(cosines, top, norms > 0)
    return Reference(
        directions=directions.numpy(),
        eigenvalues=eigenvalues.numpy(),
        next_eigenvalue=further,
        total_variance=moments.total_variance,
        positive=positive.numpy(),
        negative=negative.numpy(),
        residuals=residuals.numpy(),
        method=method,
    )
