"""Expressions that are too large to evaluate, told by their text.

The limits of a worker are what keeps grading safe; this filter only saves the seconds that a bomb burns until
it hits them. It therefore refuses only what no reference answer looks like, and never a construct that the
reference itself has.
"""

from __future__ import annotations

import re

_DEEPEST = 40  # nested brackets

_CONSTRUCTS = {
    "tower of exponents": re.compile(r"\^\s*\{?\s*\(?\s*\d+\s*\)?\s*\^\s*\{?\s*\(?\s*\d+\s*\)?\s*\^"),
    "nested exponents": re.compile(
        r"(?<![\d.])\d{2,}\s*\^\s*\{?\s*\(?\s*\d+\s*\)?\s*\^\s*\{?\s*\(?\s*\d{2,}"
    ),
    "exponent of five or more digits": re.compile(r"\^\s*\{?\s*[-(+]*\s*\d[\d,\s]{4,}|\^\s*\{[^{}]*\d{5}"),
    "power or factorial in an exponent": re.compile(r"\^\s*\{?\s*\(?\s*(?:\d+!|10\s*\^\s*\{?\s*\d)"),
    "factorial of a power": re.compile(r"\^[^!=,]*[)}]\s*!"),
    "factorial of five or more digits": re.compile(r"(?<!\d)\d{5,}\s*[)}]*\s*!"),
    "iterated factorial": re.compile(r"!\s*[)}]*\s*!"),
    "binomial of five or more digits": re.compile(r"\\binom\s*\{\s*\d{5,}|(?<!\d)\d{5,}\s*\\choose"),
    "sum, product, integral or limit": re.compile(r"\\(?:sum|prod|i{0,3}nt|oint|lim)(?![a-zA-Z])"),
}


def bomb(gold: str, answer: str) -> str | None:
    """The construct of ``answer`` that is not evaluated because ``gold`` has none; None without one."""
    for name, construct in _CONSTRUCTS.items():
        if construct.search(answer) and not construct.search(gold):
            return name
    if _depth(answer) > max(_DEEPEST, _depth(gold)):
        return f"brackets nested more than {_DEEPEST} deep"
    return None


def _depth(text: str) -> int:
    """How deep the brackets of the text are nested."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest
