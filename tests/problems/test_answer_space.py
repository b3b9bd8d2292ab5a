"""How many answers a blind guesser chooses from, where a source knows it."""

from __future__ import annotations

import pytest

from tokensweep.problems.countdown import Countdown
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.problems.ops import Ops
from tokensweep.problems.order import Order
from tokensweep.problems.protocol import ProblemSource


@pytest.mark.parametrize(
    ("source", "size"),
    [
        (Ops(size=20), 10),  # digits
        (Order(size=20), 10),
        (Countdown(size=20), None),  # the steps are verified, there is no list of answers
        (JsonlProblems(), None),
        (JsonlProblems(answer_space=1000), 1000),
    ],
)
def test_a_source_says_the_size_of_its_answer_space(source: ProblemSource, size: int | None) -> None:
    assert source.answer_space == size


def test_an_answer_space_is_not_empty() -> None:
    with pytest.raises(ValueError, match="answer_space must be at least 1"):
        JsonlProblems(answer_space=0)
