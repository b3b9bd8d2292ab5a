"""A task that a random model solves half of the time: begin the answer with an even character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokensweep.problems import Answered, Grade, Outcome, Problem, grade_each
from tokensweep.registry import component


@component("data", "test_even")
@dataclass(frozen=True)
class Even:
    """``size`` prompts; right is any completion whose first character has an even code."""

    size: int = 7
    max_tokens: int = 6
    spoilt: bool = False  # check() refuses

    name = "even"
    grader = "even/1"
    answer_space = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Problem:
        return Problem(id=f"even-{index}", prompt=f"{index}=", answer=None)

    def check(self) -> None:
        if self.spoilt:
            raise ValueError("the problems are spoilt: fetch them again")

    def content_hash(self) -> str:
        return f"even{self.size}"

    def prompt_text(self, problem: Problem) -> str:
        return problem.prompt

    def demonstration(self, problem: Problem, seed: int) -> str:
        return "0"

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        if not text:
            return Grade(outcome=Outcome.no_answer, extracted=None, rule="none")
        right = ord(text[0]) % 2 == 0
        return Grade(outcome=Outcome.correct if right else Outcome.wrong, extracted=text[0], rule="first")

    def grade_many(self, answers: Sequence[Answered], /) -> list[Grade]:
        return grade_each(self, answers)
