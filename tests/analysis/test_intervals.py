"""Intervals follow the two-way formula and cover what they say they cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tokensweep_analysis.intervals import Estimand, Scores, arm_estimate, difference_estimate

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
    estimate = arm_estimate(_ARM).clipped(0, 1)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


@pytest.mark.parametrize("table", [np.zeros((0, 3)), np.zeros(3), np.array([[0.1, np.nan]])])
def test_a_table_with_holes_is_refused(table: Scores) -> None:
    with pytest.raises(ValueError, match=r"finite table \[runs, questions\]"):
        arm_estimate(table)


def test_arms_with_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="same questions, got 3 and 2"):
        difference_estimate(_ARM, _ARM[:, :2], seeds=[0, 1], baseline_seeds=[0, 1])


def _draw(generator: np.random.Generator, *, num_runs: int, num_questions: int) -> tuple[Scores, Scores]:
    """Two equal methods with question x method, seed and seed x question effects, 8 samples per cell."""
    difficulty = generator.normal(0, 1.5, num_questions)

    def arm() -> Scores:
        own = difficulty + generator.normal(0, 0.5, num_questions)
        logits = (
            own
            + generator.normal(0, 0.3, (num_runs, 1))
            + generator.normal(0, 0.4, (num_runs, num_questions))
        )
        return np.asarray(generator.binomial(8, 1 / (1 + np.exp(-logits))) / 8, dtype=np.float64)

    return arm(), arm()


@pytest.mark.parametrize("same_seeds", [True, False])
def test_intervals_of_a_difference_cover_no_effect_about_95_percent_of_the_time(same_seeds: bool) -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(600):
        left, right = _draw(generator, num_runs=3, num_questions=30)
        other = [0, 1, 2] if same_seeds else [3, 4, 5]
        estimate = difference_estimate(left, right, seeds=[0, 1, 2], baseline_seeds=other)
        covered.append(estimate.low <= 0 <= estimate.high)
    # The standard deviation of the share is 0.9 %; one from the sampling alone covers about 65 %.
    assert 0.92 <= np.mean(covered) <= 0.99


def test_the_interval_of_one_arm_covers_the_mean_of_its_population() -> None:
    generator = np.random.default_rng(1)
    # A population with mean 0.5 by symmetry of the logits around 0.
    covered = []
    for _ in range(600):
        estimate = arm_estimate(_draw(generator, num_runs=3, num_questions=30)[0])
        covered.append(estimate.low <= 0.5 <= estimate.high)
    assert 0.92 <= np.mean(covered) <= 0.99
