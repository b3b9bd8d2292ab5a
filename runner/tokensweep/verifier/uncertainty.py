"""Reading what a completion says of its own certainty: a confidence in numbers, or a marker.

For rewards, for the grader of a task whose completions say so, and for the sample rows of evaluations.
"""

from __future__ import annotations

import re

from tokensweep.verifier.thought import after_thinking

MARKER = "<uncertain>"

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?"
_STATEMENT = re.compile(
    rf"\bconfidence\b[ \t*_]*[:=][\s*_$]*({_NUMBER})(?:\s*/\s*({_NUMBER}))?(?:\s*\\?(%))?(?![\w%]|\.\d)",
    re.IGNORECASE,
)
_EMPHASIZED = re.compile(
    rf"[*_]{{0,3}}{_STATEMENT.pattern}[*_]{{0,3}}", re.IGNORECASE
)  # bounded: long rules of *
_MARKER = re.compile(re.escape(MARKER), re.IGNORECASE)


def stated_confidence(text: str) -> float | None:
    """The confidence in [0, 1] that a completion states last; None where it states none.

    ``Confidence: 0.85``, ``confidence = 17/20`` and ``**Confidence:** 85 %`` are the same. What lies outside
    is clipped: 1.2 and 85 without a percent sign are 1. Only what follows the last closed thought counts, and
    nothing while a thought is open. A word, or a fraction of 0, is no statement.
    """
    statements = list(_STATEMENT.finditer(after_thinking(text)))
    if not statements:
        return None
    number, denominator, percent = statements[-1].groups()
    over = float(denominator or 1) * (100 if percent else 1)
    return min(1.0, max(0.0, float(number) / over)) if over else None


def confidence_statement(confidence: float) -> str:
    """A statement that :func:`stated_confidence` reads back to the bit."""
    return f"Confidence: {confidence!r}"


def count_markers(text: str) -> int:
    """How often a text says :data:`MARKER`, within its thought or after it."""
    return len(_MARKER.findall(text))


def without_statements(text: str) -> str:
    """The text without its statements of confidence and its markers."""
    return _MARKER.sub("", _EMPHASIZED.sub("", text))
