"""HTML that cannot be injected into: text is escaped unless a function of this module made it."""

from __future__ import annotations

import re
from html import escape

# What no text needs and what could reorder the page around it: control characters but tab and newline, and the
# Unicode signs that change the direction of everything after them.
_DISTURBING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

_VOID = frozenset({"meta", "br", "line", "rect", "circle", "path"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def clean(text: object) -> str:
    """Text as a browser may have it: disturbing characters become a visible sign."""
    return _DISTURBING.sub("\N{REPLACEMENT CHARACTER}", str(text))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """One element. Children that are no :class:`Markup` are escaped, None is left out, lists are spliced.

    An attribute's underscores become hyphens, a trailing one is dropped (``class_``); None leaves it out.
    """
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(clean(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID and not children:
        return Markup(f"<{tag}{shown}/>" if tag not in ("meta", "br") else f"<{tag}{shown}>")
    return Markup(f"<{tag}{shown}>{joined(*children)}</{tag}>")


def joined(*children: object) -> Markup:
    """Children one after the other, escaped where needed."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, list | tuple):
            parts.append(joined(*child))
        elif isinstance(child, Markup):
            parts.append(child)
        else:
            parts.append(escape(clean(child)))
    return Markup("".join(parts))
