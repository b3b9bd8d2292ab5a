"""Grades of free-text answers to mathematical problems; shared by all JSONL sources."""

from __future__ import annotations

from collections.abc import Sequence

from tokensweep.problems.protocol import Answered, Grade, Outcome, Problem
from tokensweep.verifier import NAME, Verdict, extract, verifier

GRADER = NAME


def grade_answers(answers: Sequence[Answered]) -> list[Grade]:
    """One grade per answer, in order, whatever else is in the batch.

    :func:`tokensweep.verifier.extract` says what the answer is. It is correct if it is the value of the
    reference in whatever notation, and an error if that could not be decided.
    """
    read = [extract(answer.text, finished=answer.finish_reason != "length") for answer in answers]
    pairs = [
        (_gold(answer.problem), extracted)
        for answer, (extracted, _) in zip(answers, read, strict=True)
        if extracted is not None
    ]
    verdicts = iter(verifier().compare(pairs))
    return [
        _unanswered(answer)
        if extracted is None
        else _answered(next(verdicts), extracted=extracted, rule=rule)
        for answer, (extracted, rule) in zip(answers, read, strict=True)
    ]


def check_golds(problems: Sequence[Problem], *, where: str) -> None:
    """Raise ValueError for the first problem whose reference answer does not verify against itself."""
    for problem, reason in unreadable_golds(problems):
        raise ValueError(
            f"{where}: the answer of {problem.id!r} must verify against itself, but {problem.answer!r} "
            f"does not ({reason}): write it as LaTeX, or drop the problem"
        )


def unreadable_golds(problems: Sequence[Problem]) -> list[tuple[Problem, str]]:
    """The problems whose reference answer does not verify against itself, each with the reason."""
    unreadable = verifier().unreadable([_gold(problem) for problem in problems])
    return [(problem, unreadable[_gold(problem)]) for problem in problems if _gold(problem) in unreadable]


def _gold(problem: Problem) -> str:
    assert problem.answer is not None
    return problem.answer


def _unanswered(answer: Answered) -> Grade:
    outcome = Outcome.truncated if answer.finish_reason == "length" else Outcome.no_answer
    return Grade(outcome=outcome, extracted=None, rule="none")


def _answered(verdict: Verdict, *, extracted: str, rule: str) -> Grade:
    outcome = {True: Outcome.correct, False: Outcome.wrong, None: Outcome.error}[verdict.equal]
    return Grade(outcome=outcome, extracted=extracted, rule=rule, reason=verdict.reason)
