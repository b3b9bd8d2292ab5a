"""Reading the final answer out of a completion."""

from __future__ import annotations

import re

from tokensweep.verifier.last_number import last_number
from tokensweep.verifier.thought import after_thinking
from tokensweep.verifier.uncertainty import without_statements

LONGEST = 2000  # characters of an extracted answer; a longer one is no answer

_ANSWER_OPEN, _ANSWER_CLOSE = "<answer>", "</answer>"
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def extract(text: str, *, finished: bool) -> tuple[str | None, str]:
    """The answer in ``text`` with the rule that found it; (None, "none") where there is none.

    Only what follows the last closed thought counts, and nothing while a thought is open: a model that boxes
    guesses while it thinks has not answered. If there is an ``<answer>`` in it, only the last one counts. The
    answer is the last box whose braces balance and that is not empty; else all that the tag holds, if it was
    closed or the text ended by itself; else, in a text without the tag that ended by itself, the last number
    (see :func:`last_number`) that is not a stated confidence. More than 2,000 characters are no answer.
    """
    visible = after_thinking(text)
    tagged, closed = last_tagged(visible)
    boxed = last_boxed(visible if tagged is None else tagged)
    if boxed is not None:
        found, rule = boxed, "boxed"
    elif tagged is not None:
        found, rule = tagged if closed or finished else "", "answer_tag"
    else:
        found, rule = (last_number(without_statements(visible)) if finished else None) or "", "last_number"
    return (found, rule) if 1 <= len(found) <= LONGEST else (None, "none")


def last_tagged(text: str) -> tuple[str | None, bool]:
    """What the last ``<answer>`` holds that is not empty, and whether it was closed; (None, False) if none.

    Where the closing tag is a stop text it may be missing.
    """
    for part in reversed(text.split(_ANSWER_OPEN)[1:]):
        content, close, _ = part.partition(_ANSWER_CLOSE)
        if content.strip():
            return content.strip(), bool(close)
    return None, False


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
