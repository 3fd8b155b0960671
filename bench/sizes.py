"""Bytes as people read them."""

from __future__ import annotations


def gigabytes(count: float) -> str:
    """Bytes in units of 10**9: two digits behind the point below ten, one above."""
    return f"{count / 1e9:.2f} GB" if count < 1e10 else f"{count / 1e9:.1f} GB"
