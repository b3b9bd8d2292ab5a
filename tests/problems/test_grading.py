"""Reading and comparing final answers."""

from __future__ import annotations

import pytest

from tokensweep.problems.grading import equal, extract, grade_answer
from tokensweep.problems.protocol import Outcome


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"first \boxed{3}, then \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),  # escaped braces do not close the box
        (r"\boxed {12}", "12"),
        (r"\boxed{7} or \boxed{8", "7"),  # the last box never closes
        (r"\boxed{7} or \boxed{ }", "7"),  # the last box is empty
        (r"<think>\boxed{1}</think> so \boxed{2}", "2"),
    ],
)
def test_the_last_balanced_box_is_the_answer(text: str, answer: str) -> None:
    assert extract(text, finished=True) == (answer, "boxed")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12 and then 1,234.", "1,234"),
        ("it is -7", "-7"),
        ("costs $3.50 each", "3.50"),
        ("from 10-3 follows 7", "7"),
        ("<think>99</think>The answer is 4", "4"),
        ("variables x1 and 5", "5"),
    ],
)
def test_without_a_box_the_last_number_is_the_answer(text: str, answer: str) -> None:
    assert extract(text, finished=True) == (answer, "last_number")


def test_the_last_number_of_a_text_that_was_cut_off_is_no_answer() -> None:
    grade = grade_answer("we add 3 and 4", "4", finish_reason="length")
    assert (grade.outcome, grade.extracted) == (Outcome.truncated, None)


def test_a_box_counts_even_in_a_text_that_was_cut_off() -> None:
    assert grade_answer(r"\boxed{4}. To check, ", "4", finish_reason="length").outcome is Outcome.correct


def test_a_thought_that_never_closes_holds_no_answer() -> None:
    assert grade_answer(r"<think>maybe \boxed{4}", "4", finish_reason="length").outcome is Outcome.truncated


def test_a_text_that_ends_without_an_answer_is_no_answer_and_not_wrong() -> None:
    grade = grade_answer("I do not know", "4", finish_reason="stop")
    assert (grade.outcome, grade.rule, grade.accuracy) == (Outcome.no_answer, "none", 0.0)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("073", "73"),
        ("1,234", "1234"),
        ("1{,}234", "1234"),
        ("12.0", "12"),
        ("12.", "12"),
        ("+5", "5"),
        ("-0", "0"),
        ("$42$", "42"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"3\!\sqrt{2}", r"3\sqrt{2}"),
    ],
)
def test_notations_of_the_same_answer_are_equal(a: str, b: str) -> None:
    assert equal(a, b)
    assert equal(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1,23", "123"),  # no thousands separator: a pair
        ("(1,234)", "(1234)"),
        ("12.5", "12"),
        ("-5", "5"),
        ("", ""),
        ("leftover", "over"),
        (r"\frac{1}{2}", "0.5"),  # exact means notation, too
    ],
)
def test_different_answers_are_not_equal(a: str, b: str) -> None:
    assert not equal(a, b)
