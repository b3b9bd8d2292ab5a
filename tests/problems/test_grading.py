"""From the text of a completion to its grade."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokensweep.problems import Answered, Grade, Outcome, Problem
from tokensweep.problems.grading import GRADER, grade_answers
from tokensweep.problems.jsonl import JsonlProblems


def answered(text: str, *, gold: str = "4", finish_reason: str = "stop") -> Answered:
    problem = Problem(id="a", prompt="?", answer=gold)
    return Answered(problem=problem, text=text, finish_reason=finish_reason)


def grade(text: str, *, gold: str = "4", finish_reason: str = "stop") -> Grade:
    return grade_answers([answered(text, gold=gold, finish_reason=finish_reason)])[0]


def test_the_last_number_of_a_text_that_was_cut_off_is_no_answer() -> None:
    cut = grade("we add 3 and 4", finish_reason="length")
    assert (cut.outcome, cut.extracted, cut.rule) == (Outcome.truncated, None, "none")


def test_a_box_counts_even_in_a_text_that_was_cut_off() -> None:
    assert grade(r"\boxed{4}. To check, ", finish_reason="length").outcome is Outcome.correct


def test_a_text_that_ends_without_an_answer_is_no_answer_and_not_wrong() -> None:
    nothing = grade("I do not know")
    assert (nothing.outcome, nothing.rule, nothing.accuracy) == (Outcome.no_answer, "none", 0.0)


def test_a_bomb_is_an_error_with_its_reason_and_not_accurate() -> None:
    bomb = grade(r"\boxed{9^{9^{9^9}}}")
    assert (bomb.outcome, bomb.accuracy) == (Outcome.error, 0.0)
    assert bomb.reason == "bomb: tower of exponents"


def test_an_error_without_a_reason_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="an error must have a reason"):
        Grade(outcome=Outcome.error, extracted="1", rule="boxed")


def test_another_notation_of_the_reference_is_correct() -> None:
    assert grade(r"So \boxed{\frac{\sqrt{12}}{2}}.", gold=r"\sqrt{3}").outcome is Outcome.correct


def test_an_echo_of_the_reference_in_the_prose_does_not_count_beside_a_box() -> None:
    assert grade(r"The answer 4 is tempting, but \boxed{5}").outcome is Outcome.wrong


def test_grades_of_a_batch_come_in_order() -> None:
    texts = [r"\boxed{2+2}", "nothing", r"\boxed{5}", r"\boxed{\sqrt{16}}", r"\boxed{2+3}"]
    grades = [grade.outcome.value for grade in grade_answers([answered(text) for text in texts])]
    assert grades == ["correct", "no_answer", "wrong", "correct", "wrong"]


def test_the_grader_names_the_release_that_it_depends_on() -> None:
    assert GRADER == "math/2 math-verify-0.9.0"


@pytest.mark.parametrize("gold", [r"\frac{1}{2}", r"$\frac{1}{2}$", r"\boxed{\frac{1}{2}}", "1/2"])
def test_a_reference_may_come_bare_in_dollars_or_boxed(tmp_path: Path, gold: str) -> None:
    source = _source(tmp_path, gold)
    source.check()
    assert source.grade(source[0], r"\boxed{0.5}", "stop").outcome is Outcome.correct
    assert source.grade(source[0], r"\boxed{0.6}", "stop").outcome is Outcome.wrong


def test_a_reference_that_does_not_verify_against_itself_is_refused_by_its_id(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"answer of 'q1' must verify against itself, but '\(\\\\sqrt\{2'"):
        _source(tmp_path, "7", r"(\sqrt{2").check()


def _source(folder: Path, *golds: str) -> JsonlProblems:
    rows = [{"id": f"q{i}", "problem": f"question {i}?", "answer": gold} for i, gold in enumerate(golds)]
    file = folder / "set.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return JsonlProblems(path=str(file))
