"""Adjusted p values and the intervals that go with them say the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tokensweep_analysis.intervals import Estimate, difference_estimate
from tokensweep_analysis.multiplicity import (
    bonferroni_confidence,
    holm,
    holm_confidences,
)


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls() -> None:
    # Ascending: 0.01 * 3 = 0.03, 0.03 * 2 = 0.06, 0.04 * 1 = 0.04, which is raised to 0.06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_adjusted_p_values_are_those_of_statsmodels() -> None:
    p_values = [each**3 for each in np.random.default_rng(0).random(50).tolist()]
    p_values[7] = p_values[3]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize("adjust", [holm, holm_confidences])
def test_a_comparison_without_p_is_not_part_of_the_family(
    adjust: Callable[[Sequence[float]], list[float]],
) -> None:
    with_gap = adjust([0.01, nan, 0.04, 0.03])
    assert np.isnan(with_gap[1])
    assert [with_gap[place] for place in (0, 2, 3)] == adjust([0.01, 0.04, 0.03])
    assert np.isnan(adjust([nan, nan])).all()
    assert adjust([]) == []


def test_levels_are_those_of_the_steps_until_the_first_that_is_not_significant() -> None:
    # 0.01 <= 0.05/3; then 0.03 > 0.05/2 stops, and 0.04, which alone would pass at 0.05, is held to 0.05/2.
    assert holm_confidences([0.01, 0.04, 0.03]) == pytest.approx([1 - 0.05 / 3, 0.975, 0.975])
    assert holm_confidences([0.01, 0.04, 0.02]) == pytest.approx([1 - 0.05 / 3, 0.95, 0.975])
    assert holm_confidences([0.2, 0.04]) == pytest.approx([0.975, 0.975])


def test_an_adjusted_interval_leaves_out_zero_exactly_when_the_adjusted_p_is_significant() -> None:
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        family = [_comparison(generator) for _ in range(generator.integers(1, 7))]
        p_values = [each.p_value() for each in family]
        levels, adjusted = holm_confidences(p_values), holm(p_values)
        for estimate, level, p in zip(family, levels, adjusted, strict=True):
            low, high = estimate.interval(level)
            assert (low > 0 or high < 0) == (p <= 0.05)
            seen.add((p <= 0.05, estimate.p_value() <= 0.05))
    assert seen == {(True, True), (False, True), (False, False)}


def _comparison(generator: np.random.Generator) -> Estimate:
    left = generator.normal(generator.choice([0, 0.7]), 1, (1, 12))
    return difference_estimate(left, np.zeros((1, 12)), seeds=[0], baseline_seeds=[0])


def test_levels_keep_the_error_of_a_family_for_the_tests_that_they_were_made_of_only() -> None:
    # Eight claims with a true effect of 3.5 standard errors, each refuted when its upper end is below that.
    # Of 1,000 families a rate of 5 % is seen with a standard error of 0.7 %.
    effect, generator = 3.5, np.random.default_rng(0)
    own: list[bool] = []
    borrowed: list[bool] = []
    for z in generator.normal(effect, 1, (1000, 8)):
        against_effect, against_zero = stats.norm.cdf(z - effect), 2 * stats.norm.sf(abs(z))
        for found, p_values in ((own, against_effect), (borrowed, against_zero)):
            alphas = 1 - np.array(holm_confidences(p_values.tolist()))
            not_reproduced = z < stats.norm.isf(alphas / 2)
            found.append(bool((not_reproduced & (z + stats.norm.isf(alphas) < effect)).any()))
    assert np.mean(own) < 0.07
    assert np.mean(borrowed) > 0.2


def test_all_intervals_of_a_family_share_its_error() -> None:
    assert bonferroni_confidence(4) == pytest.approx(1 - 0.05 / 4)
    with pytest.raises(ValueError, match="at least one contrast, got 0"):
        bonferroni_confidence(0)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("inf")])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1 or be NaN"):
        holm([0.5, bad])
