"""Intervals follow the two-way formula. Whether they cover what they say: test_calibration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tokensweep_analysis.intervals import (
    NO_SPREAD,
    SHARE,
    Estimand,
    Estimate,
    Scores,
    arm_estimate,
    arm_estimates,
    difference_estimate,
    difference_estimates,
)

# Two runs, three questions:
#            q1    q2    q3   | run mean
#   run 0   0.9   0.5   0.1   |   0.5
#   run 1   0.7   0.1   0.1   |   0.3
#   mean    0.8   0.3   0.1   |   0.4
_ARM = np.array([[0.9, 0.5, 0.1], [0.7, 0.1, 0.1]])


def test_a_single_arm_follows_the_hand_worked_two_way_example() -> None:
    # Question means deviate from 0.4 by 0.4, -0.1, -0.3: s^2 = 0.26 / 2 = 0.13, V_q = 0.13 / 3.
    # Run means deviate by 0.1, -0.1: s^2 = 0.02, V_s = 0.02 / 2 = 0.01.
    # Residuals (cell - question mean - run mean + 0.4) are 0.0, 0.1, -0.1 and 0.0, -0.1, 0.1:
    # MS = 0.04 / (1 * 2) = 0.02, V_r = 0.02 / 6.
    # V = 0.13/3 + 0.01 - 0.02/6 = 0.05, larger than V_q = 0.0433 and V_s.
    # df = 0.05^2 / ((0.13/3)^2 / 2 + 0.01^2 / 1 + (0.02/6)^2 / 2) = 0.0025 / 0.001044444 = 2.393617
    estimate = arm_estimate(_ARM)
    assert estimate.value == pytest.approx(0.4)
    assert estimate.standard_error == pytest.approx(0.05**0.5)
    assert estimate.df == pytest.approx(2.393617, rel=1e-6)
    half = float(stats.t.ppf(0.975, 2.393617)) * 0.05**0.5
    assert (estimate.low, estimate.high) == pytest.approx((0.4 - half, 0.4 + half))
    assert (estimate.estimand, estimate.num_runs, estimate.num_questions) == (Estimand.E4, 2, 3)


def test_the_variance_never_falls_below_one_of_its_parts() -> None:
    # Both runs have mean 0.5, so V_s = 0; question means are 0.7, 0.3: V_q = 0.08 / 2 = 0.04.
    # Residuals are +-0.2 in every cell: MS = 0.16, V_r = 0.16 / 4 = 0.04, and V_q + V_s - V_r would be 0.
    estimate = arm_estimate(np.array([[0.9, 0.1], [0.5, 0.5]]))
    assert estimate.standard_error == pytest.approx(0.04**0.5)


def test_arms_with_the_same_seeds_are_paired_by_run_whatever_their_order() -> None:
    # The baseline is the arm shifted by 0.1, 0.2, 0.3 per question, its runs listed the other way round:
    # differences are the same in both runs, so only questions vary: V = 0.01 / 3.
    baseline = (_ARM - np.array([0.1, 0.2, 0.3]))[::-1]
    estimate = difference_estimate(_ARM, baseline, seeds=[4, 7], baseline_seeds=[7, 4])
    assert estimate.value == pytest.approx(0.2)
    assert estimate.standard_error == pytest.approx((0.01 / 3) ** 0.5)
    assert estimate.df == pytest.approx(2.0)


def test_arms_with_other_seeds_add_their_seed_variances() -> None:
    # The baseline has run means 0.2 and 0.4, no question effect and no residual: its V_s is 0.02 / 2 = 0.01.
    # V_q and V_r are the arm's: V = 0.13/3 + (0.01 + 0.01) - 0.02/6 = 0.06.
    # df = 0.06^2 / ((0.13/3)^2 / 2 + 2 * 0.01^2 / 1 + (0.02/6)^2 / 2) = 0.0036 / 0.001144444 = 3.145631
    baseline = np.array([[0.2, 0.2, 0.2], [0.4, 0.4, 0.4]])
    estimate = difference_estimate(_ARM, baseline, seeds=[0, 1], baseline_seeds=[2, 3])
    assert estimate.standard_error == pytest.approx(0.06**0.5)
    assert estimate.df == pytest.approx(3.145631, rel=1e-6)
    assert estimate.estimand == Estimand.E4


def test_one_run_per_arm_is_a_claim_about_two_checkpoints() -> None:
    # d = 0.1, 0.2, 0.3: s^2 = 0.01, the paired t interval over three questions.
    estimate = difference_estimate(
        np.array([[0.9, 0.5, 0.3]]), np.array([[0.8, 0.3, 0.0]]), seeds=[0], baseline_seeds=[0]
    )
    expected = stats.t.interval(0.95, 2, loc=0.2, scale=(0.01 / 3) ** 0.5)
    assert (estimate.low, estimate.high) == pytest.approx(expected)
    assert estimate.estimand == Estimand.E2
    assert estimate.remark == "one training run per arm: the claim is about two checkpoints"


def test_one_lost_run_makes_the_claim_about_checkpoints() -> None:
    estimate = difference_estimate(_ARM, _ARM[:1], seeds=[0, 1], baseline_seeds=[0])
    assert (estimate.estimand, estimate.num_runs) == (Estimand.E2, 1)


def test_one_question_supports_a_claim_about_that_question_only() -> None:
    # Runs 0.2, 0.4, 0.6: s^2 = 0.04, V = 0.04 / 3 with 2 degrees of freedom.
    estimate = arm_estimate(np.array([[0.2], [0.4], [0.6]]))
    assert (estimate.estimand, estimate.df) == (Estimand.E3, 2)
    assert estimate.standard_error == pytest.approx((0.04 / 3) ** 0.5)


def test_scores_without_spread_have_no_interval() -> None:
    estimate = arm_estimate(np.ones((3, 5)))
    assert estimate.value == 1.0
    assert np.isnan([estimate.low, estimate.high, estimate.df]).all()
    assert "no spread" in estimate.remark


def test_an_interval_can_be_cut_to_possible_values() -> None:
    estimate = arm_estimate(_ARM, limits=SHARE)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


@pytest.mark.parametrize("table", [np.zeros((0, 3)), np.zeros(3), np.array([[0.1, np.nan]])])
def test_a_table_with_holes_is_refused(table: Scores) -> None:
    with pytest.raises(ValueError, match=r"finite table \[runs, questions\]"):
        arm_estimate(table)


def test_arms_with_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="same questions, got 3 and 2"):
        difference_estimate(_ARM, _ARM[:, :2], seeds=[0, 1], baseline_seeds=[0, 1])


# Two benchmarks, the same two runs: _ARM and
#            q1    q2   | run mean
#   run 0   0.8   0.4   |   0.6
#   run 1   0.6   0.2   |   0.4
#   mean    0.7   0.3   |   0.5
_OTHER = np.array([[0.8, 0.4], [0.6, 0.2]])


def test_the_mean_over_benchmarks_follows_the_hand_worked_example() -> None:
    # V_q: (0.13/3 + 0.08/2) / 4 = 0.0208333. Run means over benchmarks are 0.55 and 0.35: V_s = 0.02 / 2.
    # V_r: _OTHER has no residual, so (0.02/6 + 0) / 4 = 0.000833333. V = 0.03.
    # df = 0.03^2 / ((0.13/12)^2 / 2 + 0.01^2 / 1 + 0.01^2 / 1 + 0.000833333^2 / 2) = 0.0009 / 0.000259027778
    estimate = arm_estimate([_ARM, _OTHER])
    assert estimate.value == pytest.approx(0.45)
    assert estimate.standard_error == pytest.approx(0.03**0.5)
    assert estimate.df == pytest.approx(3.474532, rel=1e-6)
    assert (estimate.estimand, estimate.num_runs, estimate.num_questions) == (Estimand.E4, 2, 5)


def test_a_benchmark_weighs_the_same_however_many_questions_it_has() -> None:
    # Means 1 and 0 of five and of one question.
    assert arm_estimate([np.ones((2, 5)), np.zeros((2, 1))]).value == 0.5


def test_one_benchmark_in_a_list_is_that_benchmark() -> None:
    assert arm_estimate([_ARM]) == arm_estimate(_ARM)


def test_differences_over_benchmarks_are_paired_by_seed_whatever_their_order() -> None:
    # Shifts of 0.1, 0.2, 0.3 and of 0.0, 0.2 per question: only questions vary.
    # V = (0.01/3 + 0.02/2) / 4, value (0.2 + 0.1) / 2.
    baseline = [(_ARM - np.array([0.1, 0.2, 0.3]))[::-1], (_OTHER - np.array([0.0, 0.2]))[::-1]]
    estimate = difference_estimate([_ARM, _OTHER], baseline, seeds=[4, 7], baseline_seeds=[7, 4])
    assert estimate.value == pytest.approx(0.15)
    assert estimate.standard_error == pytest.approx(((0.01 / 3 + 0.02 / 2) / 4) ** 0.5)


def test_one_benchmark_of_one_question_makes_the_mean_a_claim_about_these_questions() -> None:
    # Run means are (0.5 + 0.8) / 2 and (0.3 + 0.6) / 2: V = 0.02 / 2.
    estimate = arm_estimate([_ARM, _OTHER[:, :1]])
    assert estimate.estimand == Estimand.E3
    assert estimate.standard_error == pytest.approx(0.1)
    assert "these questions, not questions like these" in estimate.remark


@pytest.mark.parametrize("baseline_seeds", [[1, 0], [2, 3]])
def test_many_metrics_at_once_are_what_each_is_alone(baseline_seeds: list[int]) -> None:
    generator = np.random.default_rng(0)
    left, right = ([generator.random((2, size, 3)) for size in (4, 6)] for _ in range(2))
    left[0][..., 1] = right[0][..., 1] = left[1][..., 1] = right[1][..., 1] = 1.0  # a metric without spread
    together = difference_estimates(left, right, seeds=[0, 1], baseline_seeds=baseline_seeds)
    for place, estimate in enumerate(together):
        own, other = ([table[..., place] for table in arm] for arm in (left, right))
        alone = difference_estimate(own, other, seeds=[0, 1], baseline_seeds=baseline_seeds)
        assert _numbers(estimate) == pytest.approx(_numbers(alone), nan_ok=True)
        assert (estimate.estimand, estimate.remark) == (alone.estimand, alone.remark)
    for place, estimate in enumerate(arm_estimates(left)):
        alone = arm_estimate([table[..., place] for table in left])
        assert _numbers(estimate) == pytest.approx(_numbers(alone), nan_ok=True)


def _numbers(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high, estimate.standard_error, estimate.df]


def test_two_checkpoints_are_the_paired_t_test() -> None:
    left, right = np.random.default_rng(0).random((2, 1, 30))
    estimate = difference_estimate(left, right, seeds=[0], baseline_seeds=[1])
    expected = stats.ttest_rel(left[0], right[0])
    assert estimate.p_value() == pytest.approx(expected.pvalue, rel=1e-9)
    assert estimate.interval(0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)), rel=1e-9)
    assert estimate.p_value(0.2) == pytest.approx(stats.ttest_rel(left[0] - 0.2, right[0]).pvalue, rel=1e-9)


def test_one_question_is_welch_over_runs_with_other_seeds_even_if_arms_have_unequally_many() -> None:
    left, right = np.random.default_rng(0).random((5, 1)), np.random.default_rng(1).random((3, 1))
    estimate = difference_estimate(left, right, seeds=range(5), baseline_seeds=range(5, 8))
    welch = stats.ttest_ind(left[:, 0], right[:, 0], equal_var=False)
    assert (estimate.df, estimate.p_value()) == pytest.approx((welch.df, welch.pvalue), rel=1e-9)


def test_one_sided_p_values_are_halves_of_the_two_sided_one() -> None:
    estimate = arm_estimate(_ARM)
    assert estimate.p_above(0.1) == pytest.approx(estimate.p_value(0.1) / 2)
    assert estimate.p_below(0.1) == pytest.approx(1 - estimate.p_value(0.1) / 2)


def test_an_interval_ends_where_its_own_p_value_says() -> None:
    estimate = arm_estimate(_ARM)
    for confidence in (0.8, 0.95, 0.999):
        low, high = estimate.interval(confidence)
        assert estimate.p_value(low) == pytest.approx(1 - confidence)
        assert estimate.p_value(high) == pytest.approx(1 - confidence)


def test_another_confidence_keeps_the_values_that_can_be_taken() -> None:
    estimate = arm_estimate(_ARM, limits=SHARE)
    assert estimate.interval(0.99) == (0.0, 1.0)
    narrow = estimate.at(0.5)
    half = float(stats.t.ppf(0.75, estimate.df)) * 0.05**0.5
    assert (narrow.low, narrow.high, narrow.confidence) == pytest.approx((0.4 - half, 0.4 + half, 0.5))


def test_without_an_interval_nothing_is_significant_and_nothing_detectable() -> None:
    estimate = arm_estimate(np.ones((3, 5)), limits=SHARE)
    numbers = [estimate.p_value(), estimate.p_above(0.5), *estimate.interval(0.9), estimate.detectable()]
    assert np.isnan(numbers).all()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7, 1234.56])
def test_a_constant_that_floats_cannot_hold_has_no_interval_of_rounding(value: float) -> None:
    table = np.full((3, 30), value)
    assert np.isnan(arm_estimate(table).standard_error)
    difference = difference_estimate(table + 0.1, table - 0.2, seeds=[0, 1, 2], baseline_seeds=[0, 1, 2])
    assert np.isnan(difference.standard_error)


def test_questions_that_everybody_or_nobody_solves_do_not_hide_the_others() -> None:
    table = np.array([[1.0, 0.0, 0.5], [1.0, 0.0, 0.75]])
    assert arm_estimate(table).standard_error > 0


def test_one_run_on_one_question_has_no_interval() -> None:
    estimate = arm_estimate(np.array([[0.5]]))
    assert (estimate.value, estimate.estimand) == (0.5, Estimand.E1)
    assert np.isnan(estimate.low)
    assert (
        estimate.remark
        == f"one training run: the interval is about this checkpoint, not about the method; {NO_SPREAD}"
    )


def test_benchmarks_with_different_runs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same runs and metrics.*\(2, 3, 1\), \(1, 2, 1\)"):
        arm_estimate([_ARM, _OTHER[:1]])


def test_no_benchmark_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one benchmark"):
        arm_estimate([])


def test_arms_with_another_number_of_benchmarks_are_refused() -> None:
    with pytest.raises(ValueError, match="same questions, got 3, 2 and 3"):
        difference_estimate([_ARM, _OTHER], [_ARM], seeds=[0, 1], baseline_seeds=[0, 1])


def test_a_run_without_a_seed_and_a_seed_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="each run needs a seed, got 1 and 2 seeds"):
        difference_estimate(_ARM, _ARM, seeds=[0], baseline_seeds=[0, 1])
    with pytest.raises(ValueError, match=r"different seeds, got \[1, 1\]"):
        difference_estimate(_ARM, _ARM, seeds=[0, 1], baseline_seeds=[1, 1])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_in_percent_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1, got {confidence}"):
        arm_estimate(_ARM, confidence=confidence)
