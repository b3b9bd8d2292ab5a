"""Copies of a problem are found in whatever spelling and with whatever around them, and nothing else is."""

from __future__ import annotations

import random
import time

import pytest

from tokensweep.problems.overlap import MIN_LENGTH, shared
from tokensweep.problems.protocol import Problem

ALICE = r"Alice has $1,000$ coins and gives $\dfrac{2}{5}$ of them to Bob. How many coins has Alice left?"


def problem(text: str, name: str = "p") -> Problem:
    return Problem(id=name, prompt=text, answer="7")


def same(one: str, other: str) -> bool:
    found = [bool(shared([problem(a)], [problem(b)])) for a, b in ((one, other), (other, one))]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    "copy",
    [
        ALICE + r" Please reason step by step, and put your final answer within \boxed{}.",
        "Solve the following problem. " + ALICE,
        "Question:" + ALICE.removesuffix("?") + "\nAnswer:",
        ALICE.replace("$", ""),
        ALICE.removesuffix("?"),
        ALICE.upper(),
        ALICE.replace("$1,000$", r"\(1\,000\)").replace(" ", "\n"),
        ALICE.replace("Bob", r"\text{Bob}"),
    ],
)
def test_a_copy_is_found_in_other_spelling_and_with_an_instruction_around_it(copy: str) -> None:
    assert same(ALICE, copy)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute $3 + 4$.", "compute 3+4"),
        ("Find x", r"Find $\displaystyle x$?"),
        ("计算 3 + 4。", "计算 $3+4$。"),
    ],
)
def test_a_short_problem_is_found_as_a_whole(one: str, other: str) -> None:
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute 3 + 4.", "Compute 3 - 4."),
        ("Compute 3 + 4.", "Compute 3 + 4 + 5."),
        ("Compute 3 + 4.", "Compute 3 + 4. Please reason step by step."),  # the price of the rule
        (
            "Find the sum of all the positive divisors of 24.",
            "Find the sum of all the positive divisors of 240.",
        ),
        (
            "Find the sum of all the positive multiples of 2.",
            "Find the sum of all the positive multiples of 2.5.",
        ),
        (
            "Find the sum of all the positive divisors of n.",
            "Find the sum of all the positive divisors of nm.",
        ),
        (ALICE, ALICE.replace("1,000", "2,000")),
        ("+ - = ?", "How much is 1 + 1?"),
    ],
)
def test_problems_that_ask_for_something_else_are_not_the_same(one: str, other: str) -> None:
    assert not same(one, other)


def test_a_problem_counts_as_long_from_the_minimum_of_letters_and_digits_on() -> None:
    for length, found in ((MIN_LENGTH - 1, False), (MIN_LENGTH, True)):
        text = "a b c d e " + "x" * (length - 5)
        assert same(text, f"Think. {text}, and answer.") is found


def test_what_is_shared_keeps_its_order_and_names_every_copy_once() -> None:
    training = [problem(ALICE + " Think.", "b"), problem("other", "c"), problem(ALICE, "a")]
    suite = [problem(ALICE, "s"), problem(ALICE.lower(), "t"), problem("none of them", "u")]
    assert [each.id for each in shared(training, suite)] == ["b", "a"]
    assert [each.id for each in shared(suite, training)] == ["s", "t"]


def test_shared_problems_are_found_in_seventeen_thousand_at_once() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=6)) for _ in range(500)]
    texts = [" ".join(draw.choices(words, k=30)) for _ in range(17_500)]
    training = [problem(f"Solve: {text} Think.", str(i)) for i, text in enumerate(texts[:17_000])]
    began = time.process_time()
    assert [each.id for each in shared(training, [problem(t) for t in texts[16_999:]])] == ["16999"]
    assert time.process_time() - began < 10  # about 0.5 s; comparing each with each would take minutes
