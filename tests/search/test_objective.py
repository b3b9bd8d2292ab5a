"""The curve of a training that a search looks at while it runs."""

from __future__ import annotations

from pathlib import Path

from tokensweep.ledger import Attempt
from tokensweep.search.objective import Curve


def test_steps_that_sample_nothing_have_no_place_in_the_curve(tmp_path: Path) -> None:
    # An offline run samples in its first step only: its rung of two steps is reached by no other.
    with Attempt.open(tmp_path) as attempt:
        attempt.metrics(1, {"sampled/accuracy": 0.5})
        for step in (2, 3, 4):
            attempt.metrics(step, {"tokens/generated": 0.0})
    assert list(Curve(tmp_path, rung=2, reported=0).news()) == []
    assert list(Curve(tmp_path, rung=1, reported=0).news()) == [(1, 0.5)]
