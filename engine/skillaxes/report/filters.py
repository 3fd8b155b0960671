"""Numbers and texts as the page shows them; the template's filters."""

from __future__ import annotations

import re

from skillaxes import memory
from skillaxes.progress import format_duration
from skillaxes.run_folder.schema import percent

# Characters that no text needs and that could reorder the page around it: control characters but tab and newline, the
# Unicode signs that change the direction of everything after them, and halves of surrogate pairs.
_DISTURBING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def clean(html: str) -> str:
    """Text or a whole page as a browser may have it: disturbing characters become a visible sign."""
    return _DISTURBING.sub("\N{REPLACEMENT CHARACTER}", html)


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent where that is short."""
    if value == 0:
        return "0"
    return f"{value:.3g}" if 1e-4 <= abs(value) < 1e6 else f"{value:.1e}"


def count(number: int) -> str:
    """``"12,345"``."""
    return f"{number:,}"


def shade(share: float) -> str:
    """A share as the style sheet's ``--v``, from 0 to 1."""
    return f"{min(1.0, max(0.0, share)):.3f}"


FILTERS = {"count": count, "duration": format_duration, "percent": percent, "shade": shade, "size": memory.show}
