"""Reading the final answer out of a completion."""

from __future__ import annotations

import re

from tokensweep.verifier.last_number import last_number

LONGEST = 2000  # characters of an extracted answer; a longer one is no answer

_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def extract(text: str, *, finished: bool) -> tuple[str | None, str]:
    """The answer in ``text`` with the rule that found it; (None, "none") where there is none.

    It is the last box whose braces balance and that is not empty, else the last number of a text that ended
    by itself (see :func:`last_number`). Only what follows the last closed thought counts, and nothing while a thought is open: a model
    that boxes guesses while it thinks has not answered. Nor has one that boxes more than 2,000 characters.
    """
    visible = after_thinking(text)
    boxed = last_boxed(visible)
    if boxed is not None:
        return (boxed, "boxed") if len(boxed) <= LONGEST else (None, "none")
    number = last_number(visible) if finished else None
    return (number, "last_number") if number and len(number) <= LONGEST else (None, "none")


def last_boxed(text: str) -> str | None:
    """Content of the box that closes last and is not empty; None without one.

    One pass: ten thousand boxes that never close cost no more than other text. Escaped braces do not count.
    """
    found: str | None = None
    opened: list[int | None] = []  # for every open brace: where its content begins if a box opened it
    for match in _BRACES.finditer(text):
        if match[0].endswith("}") and match[0] != r"\}":
            start = opened.pop() if opened else None
            content = text[start : match.start()].strip() if start is not None else ""
            found = content or found
        elif match[0].endswith("{") and match[0] != r"\{":
            opened.append(match.end() if match[0] != "{" else None)
    return found


def after_thinking(text: str) -> str:
    """What follows the last closed thought; nothing while a thought is still open."""
    visible = text.rpartition(_THINK_CLOSE)[2]
    return "" if _THINK_OPEN in visible else visible
