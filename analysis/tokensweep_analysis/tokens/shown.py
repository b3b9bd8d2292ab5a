"""Tokens as people can see them: white space, control and other hidden characters made visible."""

from __future__ import annotations

import unicodedata

_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, format (text direction), unassigned


def visible(token: str) -> str:
    """One line in which every character can be seen; no markup is escaped."""
    return "".join(_SIGNS.get(char) or _named(char) for char in token) or "(empty)"


def in_text(token: str) -> str:
    """The token as part of a text: line breaks break lines, other hidden characters are named."""
    return "".join(char if char in " \n\t" else _named(char) for char in token)


def _named(char: str) -> str:
    return f"\\u{ord(char):04x}" if unicodedata.category(char) in _UNSEEN else char
