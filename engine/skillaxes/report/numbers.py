"""Numbers for people."""

from __future__ import annotations


def percent(share: float) -> str:
    """``"31%"``, ``"4.2%"``, ``"0.31%"``."""
    value = 100 * share
    return f"{value:.0f}%" if abs(value) >= 10 else f"{value:.1f}%" if abs(value) >= 1 else f"{value:.2g}%"


def plain(value: float) -> str:
    """Three significant digits without an exponent where that is short."""
    if value == 0:
        return "0"
    return f"{value:.3g}" if 1e-4 <= abs(value) < 1e6 else f"{value:.1e}"


def duration(seconds: float) -> str:
    """``"0.42 s"``, ``"12 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
