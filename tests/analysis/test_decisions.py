"""Equivalence, posteriors and shrinkage by hand and against statsmodels."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest
from statsmodels.stats.weightstats import ttost_paired

from tokensweep_analysis.decisions import Normal, posterior, shrunken, tost_p
from tokensweep_analysis.intervals import Estimand, Estimate, arm_estimate, difference_estimate


def _estimate(value: float, standard_error: float) -> Estimate:
    return Estimate(
        value=value,
        low=nan,
        high=nan,
        standard_error=standard_error,
        df=10.0,
        estimand=Estimand.E4,
        num_runs=3,
        num_questions=30,
        confidence=0.95,
    )


@pytest.mark.parametrize("margin", [0.05, 0.1, 0.3])
def test_equivalence_of_two_checkpoints_is_the_paired_tost_of_statsmodels(margin: float) -> None:
    left, right = np.random.default_rng(0).random((2, 1, 30))
    estimate = difference_estimate(left, right, seeds=[0], baseline_seeds=[0])
    expected = ttost_paired(left[0], right[0], -margin, margin)[0]
    assert tost_p(estimate, margin) == pytest.approx(expected, rel=1e-9)


def test_equivalence_at_5_percent_is_a_90_percent_interval_inside_the_margin() -> None:
    estimate = _estimate(0.004, 0.01)
    edge = max(abs(each) for each in estimate.interval(0.9))
    assert tost_p(estimate, edge) == pytest.approx(0.05)
    assert tost_p(estimate, edge + 0.001) < 0.05 < tost_p(estimate, edge - 0.001)


def test_a_sceptic_halves_a_difference_that_is_as_uncertain_as_the_prior() -> None:
    # Mean 0.06 * 0.5 = 0.03, variance 0.0009 / 2; P(d > 0) = Phi(sqrt 2) = 0.921350,
    # P(|d| < 0.03) = Phi(0) - Phi(-2 sqrt 2) = 0.5 - 0.002339.
    belief = posterior(_estimate(0.06, 0.03), tau=0.03)
    assert (belief.mean, belief.sd) == pytest.approx((0.03, 0.03 / 2**0.5))
    assert belief.above(0) == pytest.approx(0.921350, abs=1e-6)
    assert belief.within(0.03) == pytest.approx(0.497661, abs=1e-6)


def test_a_sceptic_has_no_belief_and_no_equivalence_without_an_interval() -> None:
    estimate = arm_estimate(np.ones((3, 5)))
    belief = posterior(estimate)
    assert np.isnan([belief.mean, belief.above(0), belief.within(0.1), tost_p(estimate, 0.1)]).all()


def test_probabilities_above_below_and_within_add_up() -> None:
    belief = Normal(0.01, 0.02)
    below = 1 - belief.above(-0.03)
    assert below + belief.within(0.03) + belief.above(0.03) == pytest.approx(1)


def test_arms_are_drawn_to_their_mean_by_what_is_noise() -> None:
    # Mean 0.3, s^2 = 0.04; tau^2 = 0.04 - 0.01 = 0.03, weight 0.03 / 0.04.
    assert shrunken([0.1, 0.3, 0.5], [0.1, 0.1, 0.1]) == pytest.approx([0.15, 0.3, 0.45])


def test_an_uncertain_arm_is_drawn_further() -> None:
    # s^2 = 0.08, mean SE^2 = 0.05 / 2: tau^2 = 0.055. Weights 0.055 / 0.065 and 0.055 / 0.095.
    expected = [0.3 - 0.2 * 0.055 / 0.065, 0.3 + 0.2 * 0.055 / 0.095]
    assert shrunken([0.1, 0.5], [0.1, 0.2]) == pytest.approx(expected)


def test_arms_that_differ_less_than_their_noise_are_all_their_mean() -> None:
    assert shrunken([0.1, 0.2], [0.3, 0.3]) == pytest.approx([0.15, 0.15])


def test_an_arm_without_a_standard_error_is_left_out() -> None:
    # Mean 0.3, s^2 = 0.08, tau^2 = 0.07, weight 7/8: 0.3 -+ 0.2 * 7/8.
    assert shrunken([0.1, 0.9, 0.5], [0.1, nan, 0.1]) == pytest.approx([0.125, nan, 0.475], nan_ok=True)


def test_values_without_any_noise_stay() -> None:
    assert shrunken([0.1, 0.5], [0.0, 0.0]) == [0.1, 0.5]
    assert shrunken([0.5, 0.5], [0.0, 0.0]) == [0.5, 0.5]


def test_what_cannot_be_decided_is_refused() -> None:
    with pytest.raises(ValueError, match="margin of an equivalence must be positive, got 0"):
        tost_p(_estimate(0.0, 0.1), 0)
    with pytest.raises(ValueError, match="tau must be positive, got nan"):
        posterior(_estimate(0.0, 0.1), tau=nan)
    with pytest.raises(ValueError, match="two arms or more that have a value and a standard error, got 1"):
        shrunken([0.1, 0.2], [0.1, nan])
    with pytest.raises(ValueError, match="each value needs a standard error, got 2 and 1"):
        shrunken([0.1, 0.2], [0.1])
