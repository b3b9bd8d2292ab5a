"""Chains of hidden operations: the model knows the rule but has not committed to it.

``3A4C2=`` means 3 + 4, then times 2, modulo 10. A completion names the operation of every step and carries it
out: ``3+4=7;7*2=4``. Demonstrations name the right operation only with probability ``skill``, else any of the
three: naming is an uncertain fork, carrying out is certain, so reinforcement has the forks to sharpen.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tokensweep.problems.procedural import ProceduralTask, read, unread
from tokensweep.problems.protocol import Grade, Problem
from tokensweep.registry import component

_OPERATION = {"A": "+", "B": "-", "C": "*"}
_STEP = re.compile(r"\d[-+*]\d=(\d)")


def apply(operation: str, a: int, b: int) -> int:
    """``a operation b`` modulo 10."""
    return {"+": a + b, "-": a - b, "*": a * b}[operation] % 10


@component("data", "ops")
@dataclass(frozen=True)
class Ops(ProceduralTask):
    """Chains of ``steps`` operations; right is a chain of that many steps that ends in the right digit."""

    steps: int = 4
    skill: float = 0.5  # chance that a demonstration looks the operation up instead of guessing

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.skill <= 1:
            raise ValueError(f"skill must be in [0, 1], got {self.skill}")
        super().__post_init__()

    @property
    def answer_space(self) -> int:
        """The ten digits."""
        return 10

    def longest(self) -> int:
        """Five characters a step, a semicolon between steps, the end token."""
        return 6 * self.steps

    def draw(self, rng: random.Random) -> tuple[str, str | None]:
        """A chain and the digit it ends in."""
        value = rng.randrange(10)
        prompt = str(value)
        for _ in range(self.steps):
            symbol, operand = rng.choice("ABC"), rng.randrange(10)
            prompt += f"{symbol}{operand}"
            value = apply(_OPERATION[symbol], value, operand)
        return f"{prompt}=", str(value)

    def demonstration(self, problem: Problem, seed: int) -> str:
        """A chain whose operations are right with probability ``skill + (1 - skill) / 3`` each."""
        rng = random.Random(seed)
        value, steps = int(problem.prompt[0]), []
        for symbol, digit in zip(problem.prompt[1:-1:2], problem.prompt[2:-1:2], strict=True):
            operation = _OPERATION[symbol] if rng.random() < self.skill else rng.choice("+-*")
            result = apply(operation, value, int(digit))
            steps.append(f"{value}{operation}{digit}={result}")
            value = result
        return ";".join(steps)

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """Correct if all steps have the form ``digit operation digit = digit`` and the last result is right.

        Results on the way are not compared: as everywhere in RLVR, only the outcome is verified.
        """
        steps = [_STEP.fullmatch(step) for step in text.split(";")]
        last = steps[-1]
        if last is None or None in steps or len(steps) != self.steps:
            return unread(finish_reason)
        return read(last[1], correct=last[1] == problem.answer)
