"""What is decided, repaired and refused by the text of an answer alone."""

from __future__ import annotations

import time

import pytest

from tokensweep.verifier.bombs import bomb
from tokensweep.verifier.decide import decide, is_plain
from tokensweep.verifier.normal import canonical, tidy, unwrap


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("073", "73"),
        ("1,234", "1234"),
        ("1{,}234", "1234"),
        (r"1\,234", "1234"),
        ("12.0", "12"),
        ("12.", "12"),
        ("+5", "5"),
        ("-0", "0"),
        ("$42$", "42"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"3\!\sqrt{2}", r"3\sqrt2"),
    ],
)
def test_notations_of_the_same_answer_have_one_canonical_string(a: str, b: str) -> None:
    assert canonical(a) == canonical(b)
    assert decide(a, b) is True


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1,23", "123"),  # no thousands separator: a pair
        ("(1,234)", "(1234)"),
        ("5 8", "58"),
        (r"\pi r", r"\pir"),
        ("12.5", "12"),
        ("-5", "5"),
    ],
)
def test_different_answers_have_different_canonical_strings(a: str, b: str) -> None:
    assert canonical(a) != canonical(b)


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("204", "205", False),
        ("204", r"\frac{408}{2}", None),  # takes mathematics
        (r"\text{east}", "seat", False),  # the same letters
        ("B", r"\textbf{(B)} 17", True),
        (r"3\text{ cm}", r"3\text{ m}", False),
        (r"3\text{ cm}", "3", True),
        ("2g+3m", "3m+2g", None),  # variables, not grams and metres
        ("204", "", False),
        (r"2^{2024}", r"2^{ 2024 }", True),  # never computed
    ],
)
def test_text_decides_what_needs_no_mathematics(gold: str, answer: str, expected: bool | None) -> None:
    assert decide(gold, answer) is expected


@pytest.mark.parametrize("boxed", [r"\boxed{\frac12}", r"$\frac12$", r"\(\frac12\)", r"$\boxed{\frac12}$."])
def test_wrapping_is_removed(boxed: str) -> None:
    assert unwrap(boxed) == r"\frac12"


def test_two_formulas_side_by_side_are_not_unwrapped_to_one() -> None:
    assert unwrap(r"\boxed{1} \boxed{2}") == r"\boxed{1} \boxed{2}"


@pytest.mark.parametrize(
    ("answer", "latex"),
    [
        (r"0.1\overline{6}", r"\frac{15}{90}"),  # (16 - 1) / 90
        ("3½", r"3 \frac{1}{2}"),
        (r"\sqrt10", r"\sqrt{10}"),
        (r"\text{(D) }21", "21"),
        (r"\text{The answer is }21", "21"),
        ("45^\\circ", "45"),
        (r"\sin 45^\circ", r"\sin 45^{\circ}"),  # here the degrees matter
    ],
)
def test_latex_is_repaired_as_its_writer_meant_it(answer: str, latex: str) -> None:
    assert tidy(answer) == latex


@pytest.mark.parametrize(
    "answer",
    ["9^{9^{9^9}}", r"(10^9)!", "((9!)!)!", "3^{100000000}", r"\binom{10000000}{5}", r"\sum_{k=1}^{n} k"],
)
def test_a_bomb_is_refused_unless_the_reference_is_of_its_kind(answer: str) -> None:
    assert bomb("5", answer) is not None
    assert bomb(answer, answer) is None


@pytest.mark.parametrize(
    "answer", ["2^{2024}", "4^{50}", "2^{3^2}", "e^{x^2}", "100!", "(n+1)!", r"\binom{2025}{100}", "10^{40}"]
)
def test_large_but_legitimate_answers_are_not_refused(answer: str) -> None:
    assert bomb("5", answer) is None


def test_only_references_that_surely_can_be_read_are_plain() -> None:
    assert all(is_plain(gold) for gold in ("7", "-1,234", "0.5", "3/4", r"\frac{1}{2}", "(1,2)", "x", "east"))
    assert not any(is_plain(gold) for gold in (r"\frac{1}{x", r"\sqrt{2}", "x^2", "[0,1)"))


@pytest.mark.parametrize(
    "junk", ["{", "aa ", "1,", " ", "^{", r"\ ", r"\text{", "12345", "&", "$", "(9^", r"[\begin{matrix}"]
)
def test_text_rules_are_quick_on_junk(junk: str) -> None:
    answer = "5" + junk * (1990 // len(junk)) + "x"
    start = time.process_time()
    decide("5", answer)
    bomb("5", answer)
    assert time.process_time() - start < 2
