"""Reading a final answer out of free text and comparing it exactly; shared by all JSONL sources.

Exact means: integers compare as integers, everything else as a lightly normalised string. Two different
notations of one value (1/2 and 0.5) are different answers here; the grader's name says so in every row.
"""

from __future__ import annotations

import re

from tokensweep.problems.protocol import Grade, Outcome

GRADER = "exact/1"  # raise the number whenever a grade can change

_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:(?:,|\{,\})\d{3})*(?:\.\d+)?")
_INTEGER = re.compile(r"([-+]?)(\d+|\d{1,3}(?:,\d{3})+)(?:\.0*)?")
_INVISIBLE = re.compile(r"\\(?:left|right|displaystyle|,|!|;|:|quad|qquad)(?![a-zA-Z])|[$~\s]")
_WRAPPER = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}")


def grade_answer(text: str, answer: str, *, finish_reason: str) -> Grade:
    """Grade a completion against the reference ``answer``.

    The answer is the last ``\\boxed{...}`` after any thinking, else the last number of a text that ended by
    itself: the last number of a text cut off by the length limit is no answer.
    """
    extracted, rule = extract(text, finished=finish_reason != "length")
    if extracted is None:
        outcome = Outcome.truncated if finish_reason == "length" else Outcome.no_answer
        return Grade(outcome=outcome, extracted=None, rule=rule)
    outcome = Outcome.correct if equal(extracted, answer) else Outcome.wrong
    return Grade(outcome=outcome, extracted=extracted, rule=rule)


def extract(text: str, *, finished: bool) -> tuple[str | None, str]:
    """The answer in ``text`` with the rule that found it; (None, "none") where there is none."""
    visible = _after_thinking(text)
    boxed = _last_boxed(visible)
    if boxed is not None:
        return boxed, "boxed"
    numbers = _NUMBER.findall(visible) if finished else []
    return (numbers[-1], "last_number") if numbers else (None, "none")


def equal(a: str, b: str) -> bool:
    """Whether two answers are the same integer or, failing that, the same normalised string."""
    left, right = normalise(a), normalise(b)
    return bool(left) and left == right


def normalise(answer: str) -> str:
    """A canonical form: plain digits for integers (no separators, no leading zeros, no trailing .0)."""
    text = _WRAPPER.sub(r"\1", answer.replace("{,}", ","))
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    text = _INVISIBLE.sub("", text).rstrip(".").replace("−", "-")
    match = _INTEGER.fullmatch(text)
    if match is None:
        return text
    sign, digits = match.groups()
    number = int(digits.replace(",", ""))
    return str(-number if sign == "-" else number)


def _after_thinking(text: str) -> str:
    """What follows the last closed thought; nothing while a thought is still open."""
    visible = text.rpartition(_THINK_CLOSE)[2]
    return visible.partition(_THINK_OPEN)[0] if _THINK_OPEN in visible else visible


def _last_boxed(text: str) -> str | None:
    """Content of the last box whose braces balance and that is not empty."""
    for match in reversed(list(_BOXED.finditer(text))):
        content = _balanced(text, match.end())
        if content is not None and content.strip():
            return content.strip()
    return None


def _balanced(text: str, start: int) -> str | None:
    """Text from ``start`` up to the brace that closes the one just before it; escaped braces do not count."""
    depth, position = 1, start
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
        position += 1
    return None
