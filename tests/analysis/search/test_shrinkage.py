"""The best of many noisy values is shrunk by what is known of the noise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tokensweep_analysis.search.shrinkage import question_noise, seed_noise, shrink


def test_noise_of_questions_is_half_the_variance_of_the_difference_of_two_trials() -> None:
    # Differences of the two trials by question are 1 and 0: their variance is 0.5, of the mean 0.25; each
    # trial has half of it.
    assert question_noise(np.array([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx([0.125, 0.125])


def test_hard_questions_and_good_trials_are_no_noise() -> None:
    trials, questions = np.array([0.1, 0.3, 0.2]), np.array([0.0, 0.5, 0.2, 0.6])
    assert question_noise(trials[:, None] + questions) == pytest.approx([0.0] * 3, abs=1e-15)


def test_noise_of_questions_by_hand() -> None:
    # One 1 among zeros: trial means 1/3, 0, 0; question means 1/3, 0, 0; grand mean 1/9.
    # Trial 0 is left with 1 - 1/3 - 1/3 + 1/9 = 4/9, and twice 0 - 1/3 - 0 + 1/9 = -2/9: squares 24/81.
    # Others: -2/9, 1/9, 1/9: squares 6/81. Degrees of freedom of a trial 2 * 2 / 3; a third of each variance.
    scores = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert question_noise(scores) == pytest.approx(
        [24 / 81 / (4 / 3) / 3, 6 / 81 / (4 / 3) / 3, 6 / 81 / (4 / 3) / 3]
    )


def test_noise_of_questions_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    found = [question_noise(rng.normal(0, 0.3, (5, 8)) + rng.normal(0, 1, 8)).mean() for _ in range(4000)]
    # Each score has the variance 0.09, the mean of 8 has 0.01125.
    assert np.mean(found) == pytest.approx(0.01125, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_trial_or_one_question_tells_nothing_of_noise(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 2 trials and 2 questions"):
        question_noise(np.zeros(shape))


def test_noise_of_seeds_is_pooled_over_trials() -> None:
    # Squares around the means: 0.02 (0.4, 0.6) with 1 degree of freedom, 0.08 (0.1, 0.3, 0.5) with 2: the
    # variance is 0.1 / 3. A trial with one seed has all of it.
    found = seed_noise([[0.4, 0.6], [0.1, 0.3, 0.5], [0.9]])
    assert found is not None
    assert found == pytest.approx([0.1 / 3 / 2, 0.1 / 3 / 3, 0.1 / 3])


def test_one_seed_per_trial_tells_nothing_of_its_luck() -> None:
    assert seed_noise([[0.4], [0.6]]) is None


def test_values_are_drawn_to_their_mean_by_the_share_of_noise() -> None:
    # Mean 0.55, variance (0.0225 + 0.0025) * 2 / 3 = 1/60; without the noise of 0.005 it is 7/600, which is
    # 0.7 of 1/60: the largest is 0.55 + 0.7 * 0.15.
    found = shrink([0.4, 0.5, 0.6, 0.7], np.full(4, 0.005))
    assert found.values == pytest.approx([0.445, 0.515, 0.585, 0.655])
    assert (found.mean, found.spread) == pytest.approx((0.55, (7 / 600) ** 0.5))
    assert found.noise == pytest.approx([0.005**0.5] * 4)


def test_a_noisier_value_is_drawn_further() -> None:
    found = shrink([0.4, 0.4, 0.6, 0.6], np.array([0.0, 0.004, 0.0, 0.004]))
    # Variance 0.04 / 3, mean noise 0.002: tau^2 is 0.034 / 3. Shares 1 and 0.034 / 0.046.
    assert found.values == pytest.approx([0.4, 0.5 - 0.1 * 34 / 46, 0.6, 0.5 + 0.1 * 34 / 46])


def test_values_that_differ_no_more_than_noise_become_one() -> None:
    found = shrink([0.4, 0.5, 0.6, 0.5], np.full(4, 0.01))
    assert found.values == pytest.approx([0.5] * 4)
    assert found.spread == 0.0


def test_without_noise_nothing_is_shrunk_even_when_all_are_equal() -> None:
    assert shrink([0.4, 0.5, 0.6, 0.7], np.zeros(4)).values == pytest.approx([0.4, 0.5, 0.6, 0.7])
    assert shrink([0.5] * 4, np.zeros(4)).values == pytest.approx([0.5] * 4)


def test_three_values_are_not_shrunk() -> None:
    with pytest.raises(ValueError, match="at least 4 values, got 3"):
        shrink([0.1, 0.2, 0.3], np.zeros(3))


def _errors(*, spread: float, repetitions: int = 600) -> NDArray[np.float64]:
    """Errors of the found and of the shrunk value of the best of 24 trials on 40 questions, [R, 2]."""
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(repetitions):
        truth = rng.normal(0.5, spread, 24)
        scores = truth[:, None] + rng.normal(0, 0.2, 40) + rng.normal(0, 0.3, (24, 40))
        values = scores.mean(axis=1)
        best = int(values.argmax())
        # What questions have in common moves all trials alike and is not what selection is about.
        common = values.mean() - truth.mean()
        shrunk = shrink(values.tolist(), question_noise(scores)).values[best]
        errors.append((values[best] - common - truth[best], shrunk - common - truth[best]))
    return np.array(errors)


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.06])
def test_the_shrunk_maximum_is_nearer_to_the_truth_than_the_found_one(spread: float) -> None:
    errors = _errors(spread=spread)
    bias, squared = errors.mean(axis=0), (errors**2).mean(axis=0)
    assert bias[0] > 0.025  # the noise has a standard error of 0.3 / sqrt(40) = 0.047
    assert abs(bias[1]) < 0.3 * bias[0]
    assert squared[1] < 0.7 * squared[0]
