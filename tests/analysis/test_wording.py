"""Figures are written as people read them."""

from __future__ import annotations

from math import inf, nan

import pytest

from tokensweep_analysis.wording import counted, detected, percent


@pytest.mark.parametrize(
    ("confidence", "expected"),
    # 1 - 0.05 / 3 and 1 - 0.05 / 100: four digits, so a level never looks like certainty.
    [(0.95, "95 %"), (0.9, "90 %"), (0.975, "97.5 %"), (1 - 0.05 / 3, "98.33 %"), (0.9995, "99.95 %")],
)
def test_a_level_has_the_digits_that_tell_it_from_the_next_one(confidence: float, expected: str) -> None:
    assert percent(confidence) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0432, "4.3"), (1.0, "100.0"), (1.001, ">100"), (inf, ">100"), (nan, "-"), (None, "-")],
)
def test_a_detectable_difference_above_all_differences_is_no_number(
    share: float | None, expected: str
) -> None:
    assert detected(share) == expected


def test_one_is_not_many() -> None:
    assert [counted(number, "question") for number in (0, 1, 2)] == [
        "0 questions",
        "1 question",
        "2 questions",
    ]
