"""HTML from nested calls: whatever is not markup already is escaped where it enters. For the page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "img", "input", "link", "meta"})  # of the elements that the page uses


class Html(str):
    """Text that is markup already. Only this package makes it, from constants and from :func:`tag`."""

    __slots__ = ()


def text(content: str) -> Html:
    """``content`` as it reads; markup stays as it is."""
    return content if isinstance(content, Html) else Html(escape(content))


def join(parts: Iterable[str], separator: str = "") -> Html:
    """Parts one after the other, each escaped unless it is markup."""
    return Html(escape(separator).join(text(part) for part in parts))


def tag(name: str, /, *content: str, **attributes: str | int | None) -> Html:
    """An element. ``class_`` stands for class, ``aria_label`` for aria-label; None leaves an attribute out.

    An empty value gives an attribute without one. Attribute values are always escaped, markup or not.
    """
    opening = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        written = key.rstrip("_").replace("_", "-")
        opening.append(written if value == "" else f'{written}="{escape(str(value))}"')
    if name in _VOID:
        return Html(f"<{' '.join(opening)}>")
    return Html(f"<{' '.join(opening)}>{join(content)}</{name}>")
