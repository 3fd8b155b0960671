"""Rows of a store as torch panels, read in order and through zarr alone; files in the page cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PANEL_BYTES = 1 << 27  # of float64


class Rows:
    """The rows of a store.

    Attributes
    ----------
    n_rows, n_features : shape
    dtype : of the store
    nbytes : of all rows
    """

    def __init__(self, path: Path) -> None:
        from skillaxes.store import open_store

        self._store = open_store(path)
        self.n_rows: int = self._store.n_rows
        self.n_features: int = self._store.n_features
        self.dtype: str = self._store.dtype
        self.nbytes: int = self._store.nbytes

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` in the store's dtype, (stop - start, n_features)."""
        import torch

        rows = torch.from_numpy(self._store.read_rows(start, stop))
        return rows.view(torch.bfloat16) if self.dtype == "bfloat16" else rows

    def panels(self, dtype: Any, shift: torch.Tensor | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in order, in ``dtype``, less ``shift``: pairs of the first row's number and a panel.

        The next panel reuses the memory.
        """
        import torch

        panel_rows = max(1, _PANEL_BYTES // (8 * self.n_features))
        chunk = self._store.chunk_rows
        panel_rows = max(1, panel_rows // chunk) * chunk if panel_rows > chunk else panel_rows
        buffer = torch.empty((min(panel_rows, self.n_rows), self.n_features), dtype=dtype)
        for start in range(0, self.n_rows, panel_rows):
            stop = min(start + panel_rows, self.n_rows)
            panel = buffer[: stop - start]
            panel.copy_(self.read(start, stop))
            if shift is not None:
                panel -= shift
            yield start, panel


def files_of(path: Path) -> list[Path]:
    """The files that hold a store's or a single file's data, largest first."""
    if path.is_file():
        return [path]
    files = [file for file in path.rglob("*") if file.is_file()]
    return sorted(files, key=lambda file: file.stat().st_size, reverse=True)


def warm(path: Path) -> int:
    """Read every file once, so that it lies in the page cache as far as it fits; returns the bytes read."""
    buffer = bytearray(1 << 24)
    total = 0
    for file in files_of(path):
        with open(file, "rb", buffering=0) as handle:
            while count := handle.readinto(buffer):
                total += count
    return total
