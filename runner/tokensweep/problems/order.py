"""The order of operations: every step names the operator to reduce, then rewrites the expression.

``1+2*3=`` is worth 7; a completion is ``1:1+6;0:7``: operator 1 first, then operator 0, all modulo 10.
Demonstrations choose the operator at random (by the rules with probability ``skill``) and rewrite without
error, so that the choice is what there is to learn; several orders are right.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tokensweep.problems.ops import apply
from tokensweep.problems.procedural import ProceduralTask, read, unread
from tokensweep.problems.protocol import Grade, Problem
from tokensweep.registry import component

_MAX_STEPS = 10  # an operator is named by one digit


@component("data", "order")
@dataclass(frozen=True)
class Order(ProceduralTask):
    """Expressions with ``steps`` operators; right is one step per operator and the right digit at the end."""

    steps: int = 4
    skill: float = 0.0  # chance that a demonstration picks an operator that may be reduced now

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= _MAX_STEPS:
            raise ValueError(f"steps must be in 1..{_MAX_STEPS}, got {self.steps}")
        if not 0 <= self.skill <= 1:
            raise ValueError(f"skill must be in [0, 1], got {self.skill}")
        super().__post_init__()

    @property
    def answer_space(self) -> int:
        """The ten digits."""
        return 10

    def longest(self) -> int:
        """Steps of ``i:`` and 1, 3, 5 ... characters, semicolons between them, the end token."""
        return self.steps**2 + 3 * self.steps

    def draw(self, rng: random.Random) -> tuple[str, str | None]:
        """An expression and its value modulo 10."""
        digits = [rng.randrange(10) for _ in range(self.steps + 1)]
        operators = [rng.choice("+-*") for _ in range(self.steps)]
        text = _show(digits, operators)
        while operators:
            _reduce(digits, operators, _allowed(operators)[0])
        return f"{text}=", str(digits[0])

    def demonstration(self, problem: Problem, seed: int) -> str:
        """A full reduction without a slip in execution, in an order that may be wrong."""
        rng = random.Random(seed)
        digits, operators = _parse(problem.prompt[:-1])
        steps = []
        while operators:
            chosen = rng.choice(_allowed(operators) if rng.random() < self.skill else range(len(operators)))
            _reduce(digits, operators, chosen)
            steps.append(f"{chosen}:{_show(digits, operators)}")
        return ";".join(steps)

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """Correct if the expression shrinks by one operator in every step and ends in the right digit."""
        steps = text.split(";")
        well_formed = all(
            re.fullmatch(rf"\d:\d(?:[-+*]\d){{{self.steps - 1 - index}}}", step)
            for index, step in enumerate(steps)
        )
        if len(steps) != self.steps or not well_formed:
            return unread(finish_reason)
        return read(steps[-1][-1], correct=steps[-1][-1] == problem.answer)


def _show(digits: list[int], operators: list[str]) -> str:
    return str(digits[0]) + "".join(f"{o}{d}" for o, d in zip(operators, digits[1:], strict=True))


def _parse(text: str) -> tuple[list[int], list[str]]:
    return [int(digit) for digit in text[::2]], list(text[1::2])


def _reduce(digits: list[int], operators: list[str], index: int) -> None:
    """Carry out one operator, in place."""
    digits[index : index + 2] = [apply(operators.pop(index), digits[index], digits[index + 1])]


def _allowed(operators: list[str]) -> list[int]:
    """Operators that may be reduced first without changing the value.

    A product always may, as products are associative; a sum or difference may if no product touches it and
    no minus stands before it.
    """
    padded = ["+", *operators, "+"]
    return [
        i
        for i, operator in enumerate(operators)
        if operator == "*" or (padded[i] == "+" and padded[i + 2] != "*")
    ]
