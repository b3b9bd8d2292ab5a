"""Equivalence and a sceptic's belief, by hand, against statsmodels and by quadrature."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.weightstats import ttost_paired

from tokensweep_analysis.decisions import posterior, tost_p
from tokensweep_analysis.intervals import Estimand, Estimate, arm_estimate, difference_estimate

_AROUND = ((-1.0, 0.0), (0.0, 0.01), (0.01, 1.0))


def _estimate(value: float, standard_error: float, df: float = 10.0) -> Estimate:
    return Estimate(
        value=value,
        low=nan,
        high=nan,
        standard_error=standard_error,
        df=df,
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
    # With a known variance: mean 0.06 * 0.5 = 0.03, variance 0.0009 / 2; P(d > 0) = Phi(sqrt 2) = 0.921350,
    # P(d > 0.03) = 0.5.
    belief = posterior(_estimate(0.06, 0.03, df=1e7), tau=0.03)
    assert belief.weights @ belief.means == pytest.approx(0.03, rel=1e-5)
    assert belief.above(0) == pytest.approx(0.921350, abs=1e-5)
    assert belief.above(0.03) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(
    ("value", "error", "df"), [(-0.071, 0.017, 2.1), (0.64, 0.036, 2.0), (0.02, 0.01, 40.0)]
)
def test_a_sceptic_believes_what_prior_times_student_s_t_says(value: float, error: float, df: float) -> None:
    def density(d: float) -> float:
        return float(stats.norm.pdf(d, 0, 0.03) * stats.t.pdf((value - d) / error, df))

    points = [0.0, 0.01, value]
    parts = [integrate.quad(density, low, high, points=points, limit=500)[0] for low, high in _AROUND]
    belief = posterior(_estimate(value, error, df))
    assert belief.above(0) == pytest.approx(sum(parts[1:]) / sum(parts), abs=1e-6)
    assert belief.above(0.01) == pytest.approx(parts[2] / sum(parts), abs=1e-6)


def test_a_sceptic_has_no_belief_and_no_equivalence_without_an_interval() -> None:
    estimate = arm_estimate(np.ones((3, 5)))
    assert np.isnan([posterior(estimate).above(0), tost_p(estimate, 0.1)]).all()
