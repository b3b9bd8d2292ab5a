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
        ("The answer is 5.\nConfidence: 0.85", "5"),
        ("It is 12\n**Confidence:** 17/20", "12"),
        ("It is 12 (**Confidence: 80%**)", "12"),
    ],
)
def test_without_a_box_the_last_number_is_the_answer(text: str, answer: str) -> None:
    assert extract(text, finished=True) == (answer, "last_number")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("the answer is −7", "-7"),  # U+2212
        ("equals –7", "-7"),  # en dash
        ("a loss of -$5", "-5"),
        (r"The final answer is $\frac{3}{4}$.", r"\frac{3}{4}"),
        (r"x = -\dfrac{3}{4}", r"-\dfrac{3}{4}"),
        ("Answer: 3/4", "3/4"),
        ("it takes 3 1/2 hours", "3 1/2"),
        ("1.5e3", "1.5e3"),
        (r"about $3 \times 10^{8}$ m/s", r"3 \times 10^{8}"),
    ],
)
def test_a_number_is_read_with_its_sign_as_the_fraction_or_power_of_ten_that_it_is(
    text: str, answer: str
) -> None:
    assert extract(text, finished=True) == (answer, "last_number")


@pytest.mark.parametrize(
    "text",
    [
        r"Answer: 2\sqrt{3}",
        r"\frac{\sqrt{3}}{2}",
        r"$\frac{x}{4}$",
        "10^{6}",
        "x_{2}",
        "101_2",
        "2x",
        "2 x",
        r"2\pi",
        "f(3)",
        "(3, 4)",
        "(x, 4)",
        "[0, 4)",
        "3, 4",
        "3 and 4",
        "$x=3$ or $x=4$",
        "3 (mod 4)",
        "2 + 4",
        "10 -4",
        "x-4",
        "2 * x * 4",
        "3:4",
        "x > 4",
        r"x \le 4",
        "|-4|",
        "4!",
        r"0.44\ldots",
        "4 million",
        "3 4",
        "8/4/2",
    ],
)
def test_a_number_that_is_part_of_something_else_is_no_answer(text: str) -> None:
    assert extract(f"It was 4. So: {text}", finished=True) == (None, "none")


@pytest.mark.parametrize(
    "text",
    [
        "costs $18.",
        r"costs \$18",
        "18 dollars",
        "#### 18",
        "= 18 km",
        "= 18km",
        "18 cm^2",
        r"$18\text{ cm}^2$",
        "18 m",
        "18 m²",
        "18 km/h",
        "$18/hour",
        "18%",
        r"18^\circ",
        "$18$.",
        r"\(x = 18\)",
        r"\[x = 18\]",
        r"\approx 18",
        "**18**",
        "**Answer:** 18",
        "<b>18</b>",
        "the 18th",
        "eighteen (18)",
        "18 (eighteen)",
        "x = 18 = y",
        "=> 18",
        "$18 a day",
        "an 18-year-old",
        "<<9*2=18>>18 dollars",
        "n = 2, so x = 18",
        "18 - which is it",
        "1. 18",
        "3\n18",
        "答案是18",
    ],
)
def test_units_currency_and_markup_may_stand_around_the_number(text: str) -> None:
    assert extract(text, finished=True) == ("18", "last_number")


@pytest.mark.parametrize(
    ("text", "finished", "read"),
    [
        (r"\boxed{1} <answer> \boxed{2} </answer>", True, ("2", "boxed")),
        (r"\boxed{1} <answer>so \boxed{2}", True, ("2", "boxed")),  # the stop text is not in the text
        (r"<answer> \frac{3}{4} </answer> as in 5", True, (r"\frac{3}{4}", "answer_tag")),
        ("<answer> 4", True, ("4", "answer_tag")),
        ("<answer> 4", False, (None, "none")),  # cut off
        ("<answer> 4 </answer>. To check,", False, ("4", "answer_tag")),
        ("<answer>3</answer> or <answer>4</answer>", True, ("4", "answer_tag")),
        ("<answer>3</answer> or <answer></answer>", True, ("3", "answer_tag")),
        ("<think>a</think> <answer>4</answer>", True, ("4", "answer_tag")),
        ("<think> so <answer>4</answer>", True, (None, "none")),  # the thought is still open
    ],
)
def test_the_answer_is_looked_for_in_the_last_tag(
    text: str, finished: bool, read: tuple[str | None, str]
) -> None:
    assert extract(text, finished=finished) == read


@pytest.mark.parametrize(
    "junk", ["1 ", "1/", "1,", "<a", "<answer>", "*1", "{", "(1,", "-", r"\text{", "1", " "]
)
def test_reading_is_quick_on_junk(junk: str) -> None:
    start = time.process_time()
    extract("7" + junk * (100_000 // len(junk)) + "7 x", finished=True)
    assert time.process_time() - start < 2


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
