"""The methods' own metrics in a document: what is averaged over what."""

from __future__ import annotations

import pytest
from benchmarks.own_metrics import ends_of, to_markdown


def test_the_first_and_the_last_quarter_of_the_steps_are_averaged() -> None:
    rows = [{"step": step, "metrics": {"method/a": float(step), "entropy/mean": 1.0}} for step in range(1, 9)]
    assert dict(ends_of(rows)) == {"method/a": (1.5, 7.5)}  # of steps 1 and 2, of 7 and 8


def test_a_metric_of_fewer_steps_than_quarters_has_its_first_and_its_last_value() -> None:
    rows = [{"step": 1, "metrics": {"probe/b": 2.0}}, {"step": 2, "metrics": {"probe/b": 4.0}}]
    assert dict(ends_of(rows)) == {"probe/b": (2.0, 4.0)}


def test_seeds_are_averaged_and_the_lowest_and_highest_are_told() -> None:
    text = to_markdown({("ops", "hora", "method/a"): [(1.0, 10.0), (2.0, 20.0), (6.0, 0.0)]})
    assert text.splitlines()[-1] == "| ops | hora | `method/a` | 3 [1, 6] | 10 [0, 20] |"


def test_a_sweep_without_such_metrics_is_refused() -> None:
    with pytest.raises(ValueError, match="no finished run"):
        to_markdown({})
