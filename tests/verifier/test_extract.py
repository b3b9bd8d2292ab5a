"""Which part of a completion is the answer."""

from __future__ import annotations

import time

import pytest

from tokensweep.verifier import LONGEST, extract


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"first \boxed{3}, then \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),  # escaped braces do not close the box
        (r"\boxed {12}", "12"),
        (r"\fbox{12}", "12"),
        (r"\boxed{7} or \boxed{8", "7"),  # the last box never closes
        (r"\boxed{7} or \boxed{ }", "7"),  # the last box is empty
        (r"\boxed{\boxed{3}+1}", r"\boxed{3}+1"),  # an inner box is not a later one
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
    assert extract("we add 3 and 4", finished=False) == (None, "none")


def test_a_box_counts_even_in_a_text_that_was_cut_off() -> None:
    assert extract(r"\boxed{4}. To check, ", finished=False) == ("4", "boxed")


@pytest.mark.parametrize("text", [r"<think>maybe \boxed{4}", r"\boxed{4} <think> or 5", "I do not know"])
def test_an_open_thought_or_mere_prose_holds_no_answer(text: str) -> None:
    assert extract(text, finished=True) == (None, "none")


def test_an_overlong_box_is_no_answer_and_no_other_is_taken_instead() -> None:
    assert extract(rf"\boxed{{1}} \boxed{{{'7' * LONGEST}}}", finished=True)[1] == "boxed"
    assert extract(rf"\boxed{{1}} \boxed{{{'7' * LONGEST}7}}", finished=True) == (None, "none")


def test_a_hundred_thousand_open_boxes_are_read_in_one_pass() -> None:
    start = time.process_time()
    assert extract(r"\boxed{" * 100_000, finished=False) == (None, "none")
    assert time.process_time() - start < 5  # quadratic time would be hours
