"""More threads than one for a part of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from skillaxes_kernels.backends import native


@contextmanager
def on_threads(number: int) -> Iterator[None]:
    """Torch and the compiled products share their work out to ``number`` threads, however small the panels."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "ALONE", 0)
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)
