"""``StreamingPCA``: principal components of rows in batches, with the interface of scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skillaxes.errors import BadRowsError, UsageError

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

    from skillaxes.pca.incremental import IncrementalState


_LARGEST = 1e15  # float32 holds the sum of its square over ten thousand columns and a million rows
_FITTED = (
    "components_",
    "mean_",
    "explained_variance_",
    "explained_variance_ratio_",
    "singular_values_",
    "n_samples_seen_",
    "n_features_in_",
    "n_components_",
)


class StreamingPCA:
    """Incremental principal components of rows in batches: Ross et al. 2008, section 3.1.

    The interface is that of scikit-learn's ``IncrementalPCA``. A batch may have any number of rows. For a store, which
    can be read again, :func:`skillaxes.discover` is exact.

    Parameters
    ----------
    n_components : directions to find, k

    Attributes
    ----------
    components_ : ndarray of shape (k, n_features), float32, unit rows; the entry of largest magnitude is positive
    mean_ : ndarray of shape (n_features,), float64
    explained_variance_, explained_variance_ratio_, singular_values_ : ndarrays of shape (k,), float64
    n_samples_seen_, n_features_in_, n_components_ : int; n_components_ is smaller than k for rows of lower rank
    """

    def __init__(self, n_components: int = 10) -> None:
        self.n_components = n_components

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, for scikit-learn's ``clone``."""
        return {"n_components": self.n_components}

    def set_params(self, **params: Any) -> StreamingPCA:
        """Set parameters by name.

        Raises
        ------
        UsageError : an unknown parameter
        """
        for name, value in params.items():
            if name != "n_components":
                raise UsageError(f"{name!r} is no parameter of StreamingPCA: it has n_components")
            self.n_components = value
        return self

    def fit(self, X: ArrayLike, y: None = None) -> StreamingPCA:
        """Fit to ``X`` of shape (n_samples, n_features) alone; rows from before are dropped.

        Raises
        ------
        UsageError, BadRowsError : as for :meth:`partial_fit`
        """
        self.__dict__.pop("_state", None)
        return self.partial_fit(X)

    def partial_fit(self, X: ArrayLike, y: None = None) -> StreamingPCA:
        """Add the rows of ``X`` (n_samples, n_features), of any float dtype, from numpy or torch.

        Raises
        ------
        UsageError : another number of columns than before, or fewer columns than components
        BadRowsError : NaN, infinity or values above 1e15; row numbers count from the first batch on
        """
        import torch

        from skillaxes.pca import incremental

        rows = X if isinstance(X, torch.Tensor) else torch.from_numpy(np.asarray(X))
        if rows.ndim != 2:
            raise UsageError(f"rows of shape {tuple(rows.shape)}: needs (n_samples, n_features)")
        if not isinstance(self.n_components, (int, np.integer)) or not 1 <= self.n_components <= rows.shape[1]:
            raise UsageError(f"n_components {self.n_components}: needs 1 to {rows.shape[1]}, the number of columns")
        state: IncrementalState | None = self.__dict__.get("_state")
        seen = 0 if state is None else state.n_seen + len(state.pending)
        _check_values(rows, seen)
        if state is None:
            first = rows.double().mean(dim=0) if len(rows) else torch.zeros(rows.shape[1], dtype=torch.float64)
            state = incremental.init(rows.shape[1], self.n_components, first)
        elif state.n_columns != rows.shape[1]:
            raise UsageError(f"rows with {rows.shape[1]} columns: the rows before had {state.n_columns}")
        for at in range(0, len(rows), incremental.BATCH_ROWS):
            batch = rows[at : at + incremental.BATCH_ROWS].to(state.shift.device)
            state = incremental.update(state, (batch.double() - state.shift).float())
        self._state = state
        for name in _FITTED:
            self.__dict__.pop(name, None)
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Projections of the centred rows of ``X`` (n_samples, n_features), of shape (n_samples, k), float64.

        Raises
        ------
        UsageError : no rows so far
        """
        if "_state" not in self.__dict__:
            raise UsageError("this StreamingPCA has seen no rows: call fit or partial_fit first")
        return (_float64(X) - self.mean_) @ self.components_.T.astype(np.float64)

    def fit_transform(self, X: ArrayLike, y: None = None) -> np.ndarray:
        """``fit(X).transform(X)``."""
        return self.fit(X).transform(X)

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """Rows from projections ``X`` (n_samples, k), of shape (n_samples, n_features), float64."""
        return _float64(X) @ self.components_.astype(np.float64) + self.mean_

    def __getattr__(self, name: str) -> Any:
        if name not in _FITTED or "_state" not in self.__dict__:
            raise AttributeError(f"StreamingPCA has no {name!r}" + (" before fit" if name in _FITTED else ""))
        self._publish()  # at first use: a flush costs an eigenproblem, too much for each small batch
        return self.__dict__[name]

    def _publish(self) -> None:
        """Set the attributes of scikit-learn from the flushed state; the state keeps its pending rows."""
        import torch

        from skillaxes.pca import incremental
        from skillaxes.pca.base import signs

        state = incremental.flush(self._state)
        k = min(self.n_components, state.directions.shape[1])
        components = state.directions[:, :k].T
        components = components * signs(components)[:, None]
        degrees = max(state.n_seen - 1, 1)
        total = float(state.squares.sum()) + state.discarded
        self.components_ = components.cpu().numpy()
        self.mean_ = (state.shift + state.mean).cpu().numpy()
        self.explained_variance_ = (state.squares[:k] / degrees).cpu().numpy()
        self.explained_variance_ratio_ = (state.squares[:k] / max(total, torch.finfo(torch.float64).tiny)).cpu().numpy()
        self.singular_values_ = state.squares[:k].sqrt().cpu().numpy()
        self.n_samples_seen_ = state.n_seen
        self.n_features_in_ = state.n_columns
        self.n_components_ = k


def _float64(X: ArrayLike) -> np.ndarray:
    """``X`` as a numpy array of float64, by way of torch for bfloat16."""
    import torch

    return X.double().cpu().numpy() if isinstance(X, torch.Tensor) else np.asarray(X, np.float64)


def _check_values(rows: torch.Tensor, seen: int) -> None:
    """Refuse rows that float32 cannot square.

    Parameters
    ----------
    seen : rows before them, for the numbers in the message

    Raises
    ------
    BadRowsError : NaN, infinity or values above 1e15
    """
    import torch

    too_large = f"values above {_LARGEST:.0e}"
    for unfit, problem in ((~torch.isfinite(rows), "NaN or infinity"), (rows.abs() > _LARGEST, too_large)):
        bad = unfit.any(dim=1).nonzero()[:, 0]
        if len(bad):
            found = tuple(seen + row for row in bad.tolist())
            more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
            raise BadRowsError(f"{problem} in row {found[0]:,}{more}, counting all batches: leave such rows out", found)
