"""The seam between host and device: everything that knows of copies, streams and events stands here."""

from __future__ import annotations

import torch
from torch import Tensor


class Uploader:
    """Brings host rows to the device; on a CPU they are there already."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copied: torch.cuda.Event | None = None

    def upload(self, rows: Tensor) -> Tensor:
        """The rows on the device; the host's copy may be overwritten only after :meth:`release`."""
        if self._device.type == "cpu":
            return rows
        self.release()
        there = rows.to(self._device, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()
        return there

    def release(self) -> None:
        """Wait until every copy that was begun has left the host's buffers."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
