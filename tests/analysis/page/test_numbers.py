"""Numbers say no more than is known."""

from __future__ import annotations

from math import nan

import pytest
from tests.analysis.page.made import an_estimate

from tokensweep_analysis.page import numbers


def test_a_share_is_written_in_points_with_a_true_minus() -> None:
    assert numbers.points(-0.0123, sign="+") == "−1.2"
    assert numbers.points(0.5, sign="+") == "+50.0"


def test_an_estimate_without_an_interval_says_so() -> None:
    assert numbers.written(an_estimate(0.5, nan)) == "50.0 no interval"
    assert numbers.written(an_estimate(0.5, 0.125)) == "50.0 [37.5, 62.5]"
    assert not numbers.excludes_zero(an_estimate(0.5, nan))


@pytest.mark.parametrize(("value", "text"), [(0.0004, "< 0.001"), (0.0446, "0.045"), (nan, "–"), (None, "–")])
def test_p_values_have_three_decimals(value: float | None, text: str) -> None:
    assert numbers.p_value(value) == text


@pytest.mark.parametrize(("share", "text"), [(0.0432, "4.3"), (1.31, "> 100"), (nan, "–"), (None, "–")])
def test_a_detectable_difference_above_all_differences_is_no_number(share: float | None, text: str) -> None:
    assert numbers.detected(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "60 s"), (600, "10.0 min"), (9000, "2.5 h"), (None, "–")]
)
def test_durations_have_the_unit_that_reads_best(seconds: float | None, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(950, "950"), (123_456, "123 k"), (12_000_000, "12 M"), (None, "–")]
)
def test_large_counts_are_short(count: float | None, text: str) -> None:
    assert numbers.compact(count) == text
