"""What a set of problems must be like: as many as expected, each once, with the answers it is known for.

Problems are compared by their text without what mirrors of one set differ in: white space, dollar signs and
other delimiters of formulas, spacing commands, sizes of brackets. Figures (asy, tikz) are text like the rest:
a problem whose figure is drawn differently is another problem here.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tokensweep.problems.protocol import Problem

_UNSEEN = re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])|\\[()\[\],!;: ]|(?<!\\)\$|[\s~]")
_FRACTION = re.compile(r"\\[dt]frac(?![a-zA-Z])")
_INTEGER = re.compile(r"-?\d+")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+")
_SHOWN = 3  # examples in a message


class AnswerForm(StrEnum):
    """What every answer of a set looks like."""

    text = "text"  # LaTeX or a number
    integer = "integer"
    aime = "aime"  # an integer in 0..999


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is known of a set; None and empty: nothing."""

    num_problems: int | None = None
    answer_form: AnswerForm = AnswerForm.text
    answers: str = ""  # :func:`answers_hash`


def plain_text(problem: str) -> str:
    """The text of a problem that two mirrors of it share."""
    return _spelled(problem, between="")


def normalized(problem: str) -> str:
    """:func:`plain_text` with a space for everything that mirrors differ in, so that words stay apart."""
    return _spelled(problem, between=" ")


def _spelled(problem: str, *, between: str) -> str:
    return _UNSEEN.sub(between, _FRACTION.sub(r"\\frac", unicodedata.normalize("NFKC", problem)))


def plain_answer(answer: str) -> str:
    """An answer as mirrors share it; integers as plain digits without leading zeros."""
    text = plain_text(answer)
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return str(int(text)) if _INTEGER.fullmatch(text) else text


def answers_hash(problems: Iterable[Problem]) -> str:
    """SHA-256 over the sorted plain answers: the same for every mirror, whatever its ids and its order."""
    answers = sorted(plain_answer(problem.answer or "") for problem in problems)
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest()


def findings(problems: Sequence[Problem], expected: Expected) -> list[str]:
    """What is wrong with a set, a clause each; empty for a sound one."""
    return [*_miscount(problems, expected), *_misshapen(problems, expected.answer_form), *_repeated(problems)]


def _miscount(problems: Sequence[Problem], expected: Expected) -> Iterator[str]:
    if expected.num_problems is not None and len(problems) != expected.num_problems:
        yield f"must have {expected.num_problems} problems, got {len(problems)}"
    elif expected.answers and answers_hash(problems) != expected.answers:
        yield (
            f"must have the answers it is known for (hash {expected.answers[:12]}), "
            f"got others (hash {answers_hash(problems)[:12]}): the file is altered or of another set"
        )


def _misshapen(problems: Sequence[Problem], form: AnswerForm) -> Iterator[str]:
    if form is AnswerForm.text:
        return
    wanted = "integers" if form is AnswerForm.integer else "integers in 0..999"
    odd = [p for p in problems if not _has_form(plain_answer(p.answer or ""), form)]
    if odd:
        shown = ", ".join(f"{p.answer!r} of {p.id}" for p in odd[:_SHOWN])
        yield f"must have answers that are {wanted}, got {len(odd)} others: {shown}"


def _has_form(answer: str, form: AnswerForm) -> bool:
    if not _INTEGER.fullmatch(answer):
        return False
    return form is AnswerForm.integer or 0 <= int(answer) <= 999


def _repeated(problems: Sequence[Problem]) -> Iterator[str]:
    first: dict[str, str] = {}
    pairs = []
    for problem in problems:
        known = first.setdefault(plain_text(problem.prompt), problem.id)
        if known != problem.id:
            pairs.append(f"{problem.id} and {known}")
    if pairs:
        yield f"must have each problem once, got {len(pairs)} repeated: {', '.join(pairs[:_SHOWN])}"


def describe_answers(problems: Iterable[Problem]) -> str:
    """How many answers have which form, for people."""
    counts = Counter(
        next(form for form in (AnswerForm.aime, AnswerForm.integer, AnswerForm.text) if _is(problem, form))
        for problem in problems
    )
    words = {AnswerForm.aime: "0..999", AnswerForm.integer: "other integers", AnswerForm.text: "text"}
    return ", ".join(f"{counts[form]} {word}" for form, word in words.items() if counts[form])


def _is(problem: Problem, form: AnswerForm) -> bool:
    return form is AnswerForm.text or _has_form(plain_answer(problem.answer or ""), form)
