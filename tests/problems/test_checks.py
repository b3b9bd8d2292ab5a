"""What is wrong with a set of problems is found, and mirrors of one set are the same set."""

from __future__ import annotations

import pytest

from tokensweep.problems.checks import (
    AnswerForm,
    Expected,
    answers_hash,
    describe_answers,
    findings,
    plain_text,
)
from tokensweep.problems.dates import caution, check_day
from tokensweep.problems.protocol import Problem


def problem(number: int, text: str, answer: str = "7") -> Problem:
    return Problem(id=f"p{number}", prompt=text, answer=answer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find $x + 1$.", "Find  \\(x+1\\)."),
        ("Find\n\\[\\dfrac{1}{2}\\]", "Find $$\\frac{1}{2}$$"),
        (r"\left( 3,\, 4 \right)", "(3,4)"),
        ("ﬁnd x", "find x"),  # a ligature
    ],
)
def test_mirrors_of_a_problem_have_one_plain_text(one: str, other: str) -> None:
    assert plain_text(one) == plain_text(other)


@pytest.mark.parametrize(
    ("one", "other"), [("3 + 4", "3 - 4"), (r"\$5", "5"), ("f(x)", "F(x)"), (r"\leftarrow x", "x")]
)
def test_problems_that_ask_for_something_else_differ_in_plain_text(one: str, other: str) -> None:
    assert plain_text(one) != plain_text(other)


def test_the_hash_of_answers_forgets_ids_order_and_spelling_but_no_answer() -> None:
    here = [problem(1, "a", "007"), problem(2, "b", r"\dfrac{1}{2}"), problem(3, "c", "1,000")]
    mirror = [problem(8, "c", "1000"), problem(9, "b", r"$\frac{1} {2}$"), problem(7, "a", "7")]
    assert answers_hash(here) == answers_hash(mirror)
    assert answers_hash(here) != answers_hash([*here[:2], problem(3, "c", "1001")])
    assert answers_hash(here) != answers_hash([*here, here[0]])  # a multiset, not a set


def test_a_sound_set_has_no_findings() -> None:
    problems = [problem(1, "a", "12"), problem(2, "b", "999")]
    expected = Expected(num_problems=2, answer_form=AnswerForm.aime, answers=answers_hash(problems))
    assert findings(problems, expected) == []


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (Expected(num_problems=30), "must have 30 problems, got 3"),
        (
            Expected(answers="ab" * 32),
            "must have the answers it is known for .hash abababababab., got others",
        ),
        (Expected(answer_form=AnswerForm.integer), r"answers that are integers, got 1 others: '1/2' of p2"),
        (
            Expected(answer_form=AnswerForm.aime),
            r"integers in 0..999, got 2 others: '1/2' of p2, '1000' of p3",
        ),
        (Expected(), "must have each problem once, got 1 repeated: p3 and p1"),
    ],
)
def test_every_kind_of_wrong_set_is_named(expected: Expected, message: str) -> None:
    problems = [problem(1, "What is x?"), problem(2, "b", "1/2"), problem(3, "What is $x$?", "1000")]
    with pytest.raises(ValueError, match=message):
        raise ValueError("; ".join(findings(problems, expected)))


def test_answers_are_described_by_their_form() -> None:
    answers = ("3", "999", "1000", "-1", r"\sqrt{2}")
    described = describe_answers(problem(i, str(i), answer) for i, answer in enumerate(answers))
    assert described == "2 0..999, 2 other integers, 1 text"


def test_a_benchmark_older_than_the_model_may_have_been_seen() -> None:
    model = {"released": "2024-11-01"}
    assert "aime24 (2024-02-07) is older than the model (2024-11-01)" in caution(
        "aime24", {"date": "2024-02-07"}, model
    )
    assert caution("aime25", {"date": "2025-02-12"}, model) == ""
    assert "is older" in caution("same", {"date": "2024-11-01"}, model)  # one day's order is unknown


def test_what_nobody_dated_is_unknown_and_what_was_made_for_the_run_is_not() -> None:
    unknown = "unknown whether it was in the model's training data, for lack of"
    assert f"{unknown} model.released" in caution("a", {"date": "2024-02-07"}, {"released": ""})
    assert f"{unknown} a date of the problems" in caution("a", {"date": ""}, {"released": "2024-11-01"})
    assert caution("ops", {}, {"released": ""}) == ""  # a procedural task
    assert caution("a", {"date": "2024-02-07"}, {}) == ""  # a model of random weights


@pytest.mark.parametrize("day", ["2025", "20250212", "12.2.2025", "2025-02-30"])
def test_a_day_in_another_form_is_refused(day: str) -> None:
    check_day("date", "")
    check_day("date", "2025-02-12")
    with pytest.raises(ValueError, match="date must be a day such as 2025-02-12"):
        check_day("date", day)
