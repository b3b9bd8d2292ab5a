"""Countdown: reach a target with all the given numbers, each used once.

``3 5 2T16:`` asks for 16; ``3+5=8;8*2=16`` is right. Demonstrations are correct arithmetic in a random
order, and with probability ``skill`` a search finds one that hits the target. Unlike the other tasks it needs
search, and a small model's uncertainty is spread over many tokens.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tokensweep.problems.procedural import ProceduralTask, read, unread
from tokensweep.problems.protocol import Grade, Problem
from tokensweep.registry import component

_STEP = re.compile(r"(\d+)([-+*])(\d+)=(\d+)")
_LARGEST = 99  # intermediate results have two digits at most
_TRIES = 400  # random derivations before a demonstration gives up on the target


@component("data", "countdown")
@dataclass(frozen=True)
class Countdown(ProceduralTask):
    """``numbers`` numbers of 1..9 and a target up to ``largest_target`` that can be reached."""

    numbers: int = 3
    largest_target: int = 30
    skill: float = 0.5  # chance that a demonstration searches for the target

    def __post_init__(self) -> None:
        if self.numbers < 2:
            raise ValueError(f"numbers must be at least 2, got {self.numbers}")
        if not 1 <= self.largest_target <= _LARGEST:
            raise ValueError(f"largest_target must be in 1..{_LARGEST}, got {self.largest_target}")
        if not 0 <= self.skill <= 1:
            raise ValueError(f"skill must be in [0, 1], got {self.skill}")
        super().__post_init__()

    def longest(self) -> int:
        """Steps like ``81+18=99``, semicolons between them, the end token."""
        return 9 * (self.numbers - 1)

    def draw(self, rng: random.Random) -> tuple[str, str | None]:
        """Numbers and a target that some derivation reaches; there is no single answer."""
        while True:
            numbers = [rng.randint(1, 9) for _ in range(self.numbers)]
            target = _derive(numbers, rng)[1]
            if 1 <= target <= self.largest_target:
                return f"{' '.join(map(str, numbers))}T{target}:", None

    def demonstration(self, problem: Problem, seed: int) -> str:
        """A derivation from the numbers without a slip; it hits the target by search or by luck."""
        rng = random.Random(seed)
        numbers, target = _parse(problem.prompt)
        searching = rng.random() < self.skill
        for _ in range(_TRIES if searching else 1):
            text, value = _derive(numbers, rng)
            if value == target:
                break
        return text

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """Correct if every step is true, uses what is still there, and all that is left is the target."""
        numbers, target = _parse(problem.prompt)
        steps = [_STEP.fullmatch(step) for step in text.split(";")]
        if None in steps:
            return unread(finish_reason)
        sound = all([step is not None and _play(numbers, step) for step in steps])
        last = text.rpartition("=")[2]
        return read(last, correct=sound and numbers == [target])


def _parse(prompt: str) -> tuple[list[int], int]:
    numbers, _, target = prompt[:-1].partition("T")
    return [int(number) for number in numbers.split()], int(target)


def _play(numbers: list[int], step: re.Match[str]) -> bool:
    """Whether the step is true and uses numbers at hand; replaces them by the result, in place."""
    a, operation, b, result = int(step[1]), step[2], int(step[3]), int(step[4])
    for used in (a, b):
        if used not in numbers:
            return False
        numbers.remove(used)
    numbers.append(result)
    return result == _apply(operation, a, b)


def _apply(operation: str, a: int, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[operation]


def _derive(numbers: list[int], rng: random.Random) -> tuple[str, int]:
    """A random derivation from the numbers and its value; every result lies in 0..99."""
    left, steps = list(numbers), []
    while len(left) > 1:
        a, b = left.pop(rng.randrange(len(left))), left.pop(rng.randrange(len(left)))
        operation = rng.choice("+-*")
        if operation == "-" or _apply(operation, a, b) > _LARGEST:
            operation, a, b = "-", max(a, b), min(a, b)
        result = _apply(operation, a, b)
        steps.append(f"{a}{operation}{b}={result}")
        left.append(result)
    return ";".join(steps), left[0]
