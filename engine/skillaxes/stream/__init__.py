"""Rows of a store as panels on a device, read ahead in the background."""

from __future__ import annotations

from skillaxes.stream.panel import Panel
from skillaxes.stream.panels import PanelStream

__all__ = ["Panel", "PanelStream"]
