"""What a problem source must offer, for trainer and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One prompt with what its grader compares against."""

    id: str
    prompt: str
    answer: str | None  # None: the grader verifies the text itself, many answers are right
    domain: str = ""  # part of a mixture that it is from; empty: there is one domain only


class Outcome(StrEnum):
    """What became of one completion; only ``correct`` counts as accuracy 1."""

    correct = "correct"
    wrong = "wrong"
    no_answer = "no_answer"  # the text ended by itself, but holds no answer
    truncated = "truncated"  # the length limit came before an answer
    error = "error"  # the grader failed: neither right nor wrong


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A problem with the text of a completion, ready to be graded."""

    problem: Problem
    text: str  # with the <think> that the prompt ended with, see models.prompts.answer_text
    finish_reason: str  # "stop" or "length"


@dataclass(frozen=True, kw_only=True)
class Grade:
    """The verdict on one completion and how it came about."""

    outcome: Outcome
    extracted: str | None  # the answer that was read out of the text
    rule: str  # how it was read: "boxed", "answer_tag", "last_number", "steps"; "none" without an answer
    reason: str = ""  # of an error, such as "timeout", "memory", "bomb: ..." or "crashed: ..."

    def __post_init__(self) -> None:
        if (self.outcome is Outcome.error) != bool(self.reason):
            raise ValueError(
                f"an error must have a reason and nothing else may, got {self.outcome} and {self.reason!r}"
            )

    @property
    def accuracy(self) -> float:
        """1.0 for a correct completion, else 0.0."""
        return float(self.outcome is Outcome.correct)


@runtime_checkable
class ProblemSource(Protocol):
    """An indexed, finite, content-addressed set of problems with a grader.

    Indexing may raise ValueError where a file is bad; ``check`` raises it before anything starts.
    """

    @property
    def name(self) -> str:
        """Short name of the source, for tables and sample rows."""
        ...

    @property
    def grader(self) -> str:
        """Name and version of the grader, such as ``ops-steps/1``."""
        ...

    @property
    def max_tokens(self) -> int:
        """Length limit that fits the answers, in tokens, end token included."""
        ...

    @property
    def answer_space(self) -> int | None:
        """How many answers a blind guesser chooses from; None where that is unknown."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Problem: ...

    def check(self) -> None:
        """Raise ValueError that names file, line and next step if the source can not be used."""
        ...

    def content_hash(self) -> str:
        """Hash of everything that decides what is asked, not of where it lies, nor of how it is graded."""
        ...

    def prompt_text(self, problem: Problem) -> str:
        """The text that the model is given."""
        ...

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """Grade the text of a completion; ``finish_reason`` is ``stop`` or ``length``."""
        ...

    def grade_many(self, answers: Sequence[Answered], /) -> list[Grade]:
        """The grades of many completions, in order and as ``grade`` gives them, but in parallel if slow."""
        ...


def grade_each(source: ProblemSource, answers: Sequence[Answered]) -> list[Grade]:
    """The grades one after the other: ``grade_many`` of a source whose grader is quick."""
    return [source.grade(a.problem, a.text, a.finish_reason) for a in answers]


@runtime_checkable
class Mixed(ProblemSource, Protocol):
    """A source of several domains that says which of them is drawn from when."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains."""
        ...

    def turn(self, position: int, /) -> tuple[str, int]:
        """The domain of the prompt at a position of the run, and how many of it came before."""
        ...

    def drawable(self, domain: str, /) -> frozenset[int]:
        """Indices of the problems of a domain that are trained on."""
        ...


@runtime_checkable
class Demonstrated(ProblemSource, Protocol):
    """A source that can also show how it is done, so that a model can be warm-started on it."""

    def demonstration(self, problem: Problem, seed: int) -> str:
        """One completion as a teacher of limited skill would write it."""
        ...
