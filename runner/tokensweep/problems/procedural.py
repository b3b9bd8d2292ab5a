"""What the procedural tasks share: distinct prompts from a seed, splits by hash, checks, content hash.

A task is a frozen dataclass that derives from :class:`ProceduralTask` and says how to draw a prompt, how long
the longest demonstration is, how to demonstrate and how to grade. One character is one token.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import count
from typing import Any, TypeVar

from tokensweep.problems.protocol import Answered, Grade, Outcome, Problem, grade_each
from tokensweep.seeds import derive_seed

T = TypeVar("T")

_TEST_EVERY = 5  # one prompt in five belongs to the test split, by its hash
_PATIENCE = 2000  # draws in a row without a new prompt before a task counts as exhausted


class Split(StrEnum):
    """Training and test prompts never meet: the hash of a prompt decides where it belongs."""

    train = "train"
    test = "test"


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, whatever the seed and the size."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return Split.test if digest[0] % _TEST_EVERY == 0 else Split.train


@dataclass(frozen=True)
class ProceduralTask:
    """Base of the tasks: indexing, hashing and checking. Subclasses add the difficulty."""

    split: Split = Split.train
    size: int = 4096  # distinct problems
    skip: int = 0  # problems of the split that come before them and are left to others
    max_tokens: int = 32  # limit for a completion, end token included

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.skip < 0:
            raise ValueError(f"skip must be at least 0, got {self.skip}")
        if self.max_tokens < self.longest():
            raise ValueError(
                f"max_tokens must be at least {self.longest()} for {self.name}, whose longest demonstration "
                f"has as many, got {self.max_tokens}: raise data.max_tokens or make the problems smaller"
            )

    @property
    def name(self) -> str:
        """The class name in lower case."""
        return type(self).__name__.lower()

    @property
    def grader(self) -> str:
        """Name and version; raise the number whenever a grade can change."""
        return f"{self.name}-steps/1"

    @property
    def answer_space(self) -> int | None:
        """Unknown, unless a task says how many answers it has."""
        return None

    def longest(self) -> int:
        """Tokens of the longest demonstration, end token included."""
        raise NotImplementedError

    def draw(self, rng: random.Random) -> tuple[str, str | None]:
        """A random prompt and its answer."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Problem:
        return _problems(self)[index]

    def check(self) -> None:
        """Raise ValueError if the task has too few distinct problems for its size."""
        _problems(self)

    def content_hash(self) -> str:
        """SHA-256 over the difficulty and every prompt; length limit and grader are no content.

        Nor is what is skipped: that shows in the prompts.
        """
        knobs = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("skip", "max_tokens")}
        rows: list[Any] = [
            self.name,
            knobs,
            [[p.id, p.prompt, p.answer] for p in _problems(self)],
        ]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def prompt_text(self, problem: Problem) -> str:
        """The prompt itself: these tasks need no instruction."""
        return problem.prompt

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """Grade the text of a completion."""
        raise NotImplementedError

    def grade_many(self, answers: Sequence[Answered], /) -> list[Grade]:
        """One grade after the other: they take microseconds."""
        return grade_each(self, answers)


@lru_cache(maxsize=16)
def _problems(task: ProceduralTask) -> tuple[Problem, ...]:
    """``size`` distinct prompts of the task's stream that fall into its split, behind the first ``skip``.

    The stream depends on neither, so a larger source begins with the smaller one, and one that skips as many
    as another has goes on where that one ends.
    """
    knobs = {k: v for k, v in dataclasses.asdict(task).items() if k not in ("size", "skip", "max_tokens")}
    rng = random.Random(derive_seed("problems", task.name, json.dumps(knobs, sort_keys=True)))
    drawn = (task.draw(rng) for _ in count())
    found = first_of_split(drawn, split=task.split, size=task.skip + task.size, name=task.name)
    return tuple(
        Problem(id=f"{task.name}-{task.split}-{index}", prompt=prompt, answer=answer)
        for index, (prompt, answer) in enumerate(found.items())
    )[task.skip :]


def first_of_split(drawn: Iterator[tuple[str, T]], *, split: Split, size: int, name: str) -> dict[str, T]:
    """The first ``size`` distinct prompts of an endless stream that fall into a split, with their values.

    Raises ValueError when the stream gives no new prompt any more.
    """
    found: dict[str, T] = {}
    stale = 0
    while len(found) < size:
        prompt, value = next(drawn)
        if split_of(prompt) is split and prompt not in found:
            found[prompt], stale = value, 0
            continue
        stale += 1
        if stale > _PATIENCE:
            raise ValueError(
                f"{name} has only about {len(found)} distinct {split} problems, but {size} were asked for "
                "(skipped ones count): lower data.size or make the problems larger"
            )
    return found


def unread(finish_reason: str) -> Grade:
    """The grade of a completion that is not in the form the task asks for."""
    outcome = Outcome.truncated if finish_reason == "length" else Outcome.no_answer
    return Grade(outcome=outcome, extracted=None, rule="none")


def read(extracted: str, *, correct: bool) -> Grade:
    """The grade of a completion in the right form that arrives at ``extracted``."""
    outcome = Outcome.correct if correct else Outcome.wrong
    return Grade(outcome=outcome, extracted=extracted, rule="steps")
