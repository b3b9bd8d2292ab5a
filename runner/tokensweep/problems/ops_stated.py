"""Chains of hidden operations whose completions say how sure they are: what a tiny model can state.

``3A4C2=`` is answered as in ``ops``, and then with statements that :mod:`tokensweep.verifier` reads in any
text: ``3+4=7;7*2=4<UNCERTAIN>;CONFIDENCE:0.7``. A demonstration states one of eleven confidences at random
and marks itself by a coin: the warm start teaches the form and nothing of what it means, so that whatever a
statement says of its answer later was learnt from the reward.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tokensweep.problems.ops import Ops
from tokensweep.problems.protocol import Grade, Problem
from tokensweep.registry import component
from tokensweep.seeds import derive_seed
from tokensweep.verifier import MARKER, confidence_statement, without_statements

_LEVELS = 10  # confidences 0.0, 0.1, ..., 1.0
_BREAK = ";"


@component("data", "ops_stated")
@dataclass(frozen=True)
class OpsStated(Ops):
    """Ops with a marker, or none, and a confidence behind the last step."""

    max_tokens: int = 52  # 24 for the steps, 11 for the marker, 15 for the confidence
    marked: float = 0.5  # chance that a demonstration has the marker, whether it is right or not

    def __post_init__(self) -> None:
        if not 0 <= self.marked <= 1:
            raise ValueError(f"marked must be in [0, 1], got {self.marked}")
        super().__post_init__()

    @property
    def name(self) -> str:
        """As the option is called."""
        return "ops_stated"

    def longest(self) -> int:
        """That of the steps, the marker and a confidence."""
        return super().longest() + len(MARKER) + len(_statement(_LEVELS))

    def demonstration(self, problem: Problem, seed: int) -> str:
        """A demonstration of ``ops``, and a certainty that does not know whether it is right."""
        rng = random.Random(derive_seed(seed, "certainty"))
        mark = MARKER.upper() if rng.random() < self.marked else ""
        return super().demonstration(problem, seed) + mark + _statement(rng.randint(0, _LEVELS))

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """The grade of its steps; what is said of the certainty counts nothing here."""
        return super().grade(problem, without_statements(text).removesuffix(_BREAK), finish_reason)


def _statement(level: int) -> str:
    """In the characters that the tiny model has."""
    return _BREAK + confidence_statement(level / _LEVELS).upper().replace(" ", "")
