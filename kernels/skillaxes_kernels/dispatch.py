"""Which implementation serves a device, a dtype and a shape: a rule that can be asked and overruled."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

BACKENDS = ("auto", "cpu", "torch", "triton", "reference")
_warned: set[str] = set()


class BackendError(ValueError):
    """A backend that was named and declines, with its reason."""


@dataclass(frozen=True)
class Choice:
    """``name`` is "cpu", "torch" (plain torch on a GPU), "triton" (the fused kernel) or "reference"."""

    name: str
    reasons: tuple[str, ...]


def which(
    device: torch.device | str, dtype: torch.dtype, n_features: int, n_directions: int, backend: str = "auto"
) -> Choice:
    """What would run for panels of ``n_features`` columns of ``dtype`` on ``device``, and why.

    Raises
    ------
    BackendError : ``backend`` is unknown, or was named and declines
    """
    device = torch.device(device)
    if backend not in BACKENDS:
        raise BackendError(f"backend {backend!r} is unknown; use one of {', '.join(BACKENDS)}")
    if backend == "auto":
        return _automatic(device, dtype, n_features, n_directions)
    reason = _decline(backend, device, dtype, n_features, n_directions)
    if reason is not None:
        raise BackendError(f"backend {backend!r} declines: {reason}")
    return Choice(backend, ("named by the caller",))


def warn_once(message: str) -> None:
    """One warning a process for each message."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _automatic(device: torch.device, dtype: torch.dtype, n_features: int, n_directions: int) -> Choice:
    if device.type == "cpu":
        return Choice("cpu", ("the panels are on the CPU",))
    reason = _decline("triton", device, dtype, n_features, n_directions)
    if reason is None:
        return Choice("triton", (f"the panels are on {device.type} and the fused kernel takes {dtype}",))
    return Choice("torch", (f"the panels are on {device.type}", f"the fused kernel declines: {reason}"))


def _decline(backend: str, device: torch.device, dtype: torch.dtype, n_features: int, n_directions: int) -> str | None:
    if backend == "cpu":
        return None if device.type == "cpu" else f"the panels are on {device.type}; move them to the CPU"
    if backend == "torch":
        return None if device.type != "cpu" else "the panels are on the CPU; use backend='cpu'"
    if backend == "triton":
        return "the fused kernel is not part of this build; use backend='auto'"
    return None
