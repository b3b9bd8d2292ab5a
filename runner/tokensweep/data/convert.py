"""From the rows of a hub dataset to problems: pure functions, one per kind of row.

``columns`` takes columns of that name, ``gsm8k`` the text after ``####``, ``math`` the last box of a
solution, ``dapo`` a chat prompt without the instruction around it. Answers become texts; a row without an
answer is skipped, copies of a problem are merged, a problem whose copies disagree is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokensweep.problems.checks import plain_answer, plain_text
from tokensweep.problems.protocol import Problem

Row = Mapping[str, Any]

_PROBLEM, _ANSWER, _ID = ("problem", "question"), ("answer",), ("unique_id", "id", "problem_idx")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|(?=[^\s{]))")
# The instruction around every prompt of DAPO-Math-17k: a first paragraph and a last one.
_DAPO_FIRST = re.compile(r"\ASolve the following math problem step by step\..*?\n\n", re.DOTALL)
_DAPO_LAST = re.compile(r"\n\nRemember to put your answer on its own line after .{0,20}\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The problems of a dataset, and what became of its other rows."""

    problems: tuple[Problem, ...]
    rows: int
    repeated: int  # copies of a problem that is there
    unanswered: int  # rows without a problem or an answer
    disagreeing: int  # problems dropped because their copies have different answers


def convert(rows: Iterable[Row], *, kind: str, name: str) -> Converted:
    """The distinct problems of ``rows`` in their order, with ids ``<name>-<id or number of the row>``.

    Raises ValueError for an unknown kind of row, a row that lacks its columns, and when nothing is left.
    """
    if kind not in KINDS:
        raise ValueError(f"{name}: hub_rows must be one of {', '.join(KINDS)}, got {kind!r}")
    read = KINDS[kind]
    plain: dict[str, str] = {}  # most copies are exact, so the text is brought into plain form once
    found: dict[str, Problem] = {}
    disputed: set[str] = set()
    number = unanswered = repeated = 0
    for number, row in enumerate(rows, start=1):
        text, answer = read(row)
        if not text.strip() or not plain_answer(answer):
            unanswered += 1
            continue
        if text not in plain:
            plain[text] = plain_text(text)
        key = plain[text]
        if key not in found:
            found[key] = Problem(id=f"{name}-{_id(row, number)}", prompt=text.strip(), answer=answer)
            continue
        repeated += 1
        if plain_answer(found[key].answer or "") != plain_answer(answer):
            disputed.add(key)
    problems = _with_unique_ids([problem for key, problem in found.items() if key not in disputed])
    if not problems:
        raise ValueError(
            f"{name}: no problem with an answer in {number} rows: is data.hub the right dataset?"
        )
    return Converted(
        problems=problems, rows=number, repeated=repeated, unanswered=unanswered, disagreeing=len(disputed)
    )


def last_box(text: str) -> str:
    """Content of the last ``\\boxed{...}`` (or ``\\boxed x``) with balanced braces; empty without one."""
    for match in reversed(list(_BOX.finditer(text))):
        if not match[1]:
            return text[match.end() :].split("$")[0].strip().rstrip(".")
        depth = 1
        for position in range(match.end(), len(text)):
            escaped = text[position - 1] == "\\"
            depth += 0 if escaped else {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[match.end() : position].strip()
    return ""


def _columns(row: Row) -> tuple[str, str]:
    return _text(_take(row, _PROBLEM)), _text(_take(row, _ANSWER))


def _gsm8k(row: Row) -> tuple[str, str]:
    """The answer stands after ``####``, with commas between thousands."""
    answer = _text(_take(row, _ANSWER)).rpartition("####")
    return _text(_take(row, _PROBLEM)), answer[2].strip().replace(",", "") if answer[1] else ""


def _math(row: Row) -> tuple[str, str]:
    return _text(_take(row, _PROBLEM)), last_box(_text(_take(row, ("solution",))))


def _dapo(row: Row) -> tuple[str, str]:
    """The only turn of ``prompt`` without its instruction, and ``reward_model.ground_truth``."""
    turns, judged = _take(row, ("prompt",)), _take(row, ("reward_model",))
    asked = _text(turns[-1]["content"])
    return _DAPO_LAST.sub("", _DAPO_FIRST.sub("", asked)), _text(judged["ground_truth"])


KINDS: Mapping[str, Callable[[Row], tuple[str, str]]] = {
    "columns": _columns,
    "gsm8k": _gsm8k,
    "math": _math,
    "dapo": _dapo,
}


def _take(row: Row, names: tuple[str, ...]) -> Any:
    """The first of these columns that the row has."""
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f"a row must have a column {' or '.join(names)}, got {', '.join(row)}")


def _text(value: Any) -> str:
    """A cell as text; whole floats as integers, an empty cell as nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def _id(row: Row, number: int) -> str:
    """The row's own id without the file name some have, or its number."""
    own = next((str(row[name]) for name in _ID if row.get(name) not in (None, "")), "")
    return re.sub(r"\W+", "-", own.removesuffix(".json").removeprefix("test/")) if own else f"{number:05d}"


def _with_unique_ids(problems: list[Problem]) -> tuple[Problem, ...]:
    """As they are where ids are distinct, else numbered: subsets of one dataset may count anew."""
    if len({problem.id for problem in problems}) == len(problems):
        return tuple(problems)
    return tuple(
        Problem(id=f"{problem.id}-{number:05d}", prompt=problem.prompt, answer=problem.answer)
        for number, problem in enumerate(problems, start=1)
    )
