"""pass@k is the share of k-subsets that hold a correct sample, pass^k of those that hold no wrong one."""

from __future__ import annotations

from itertools import combinations

import pytest

from tokensweep_analysis.passk import (
    cover_at,
    guess_floor,
    pass_at_k,
    pass_hat_k,
    pass_hat_table,
    pass_table,
)


@pytest.mark.parametrize("num_samples", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(num_samples: int) -> None:
    for num_correct in range(num_samples + 1):
        outcomes = [True] * num_correct + [False] * (num_samples - num_correct)
        for k in range(1, num_samples + 1):
            subsets = list(combinations(outcomes, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_stays_exact_where_binomials_overflow() -> None:
    # One correct sample of n is in a draw of k with probability k / n.
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5, rel=1e-12)


def test_pass_at_one_is_the_mean_accuracy() -> None:
    assert pass_at_k(32, 5, 1) == pytest.approx(5 / 32)


@pytest.mark.parametrize("k", [0, 9])
def test_k_outside_of_the_samples_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"1 <= k <= samples, got k={k} and 8 samples"):
        pass_at_k(8, 3, k)


@pytest.mark.parametrize("num_correct", [-1, 9])
def test_impossible_counts_are_refused(num_correct: int) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 8"):
        pass_at_k(8, num_correct, 1)


@pytest.mark.parametrize("num_samples", [1, 2, 5, 7])
def test_pass_hat_k_is_the_share_of_subsets_without_a_wrong_sample(num_samples: int) -> None:
    for num_correct in range(num_samples + 1):
        outcomes = [True] * num_correct + [False] * (num_samples - num_correct)
        for k in range(1, num_samples + 1):
            subsets = list(combinations(outcomes, k))
            expected = sum(all(subset) for subset in subsets) / len(subsets)
            assert pass_hat_k(num_samples, num_correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_hat_k_is_the_power_of_the_accuracy_on_average() -> None:
    # 3 samples of a question with p = 1/2: c is 0, 1, 2, 3 in 1, 3, 3, 1 of 8 cases; p^2 is 1/4.
    mean = sum(ways * pass_hat_k(3, c, 2) for c, ways in enumerate([1, 3, 3, 1])) / 8
    assert mean == pytest.approx(1 / 4)


def test_pass_hat_k_above_the_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pass\^k needs 1 <= k <= samples, got k=9 and 8 samples"):
        pass_hat_k(8, 3, 9)


def test_cover_counts_a_question_from_tau_on() -> None:
    # 9 of 10 is 0.9 exactly; 7 of 8 is 0.875.
    assert [cover_at(10, c, 0.9) for c in (8, 9, 10)] == [0.0, 1.0, 1.0]
    assert [cover_at(8, c, 0.9) for c in (7, 8)] == [0.0, 1.0]


@pytest.mark.parametrize("tau", [0.0, 1.1])
def test_a_tau_that_is_no_share_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match="cover@tau needs 0 < tau <= 1"):
        cover_at(8, 3, tau)


@pytest.mark.parametrize("num_samples", [1, 6, 64])
def test_the_tables_hold_what_the_formulas_give(num_samples: int) -> None:
    ks = range(1, num_samples + 1)
    for c in range(num_samples + 1):
        assert pass_table(num_samples, ks)[c] == pytest.approx(
            [pass_at_k(num_samples, c, k) for k in ks], abs=1e-14
        )
        assert pass_hat_table(num_samples, ks)[c] == pytest.approx(
            [pass_hat_k(num_samples, c, k) for k in ks], abs=1e-14
        )


def test_the_tables_stay_exact_where_binomials_overflow() -> None:
    # One correct sample is in a draw with probability k / n, one wrong sample is not with 1 - k / n.
    assert pass_table(2000, [1000])[1] == pytest.approx([0.5], rel=1e-12)
    assert pass_hat_table(2000, [500])[1999] == pytest.approx([0.75], rel=1e-12)


def test_a_table_for_a_k_above_the_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pass@k needs 1 <= k <= samples, got k=9 and 8 samples"):
        pass_table(8, [1, 9])
    with pytest.raises(ValueError, match=r"pass\^k needs 1 <= k <= samples, got k=0"):
        pass_hat_table(8, [0])


def test_the_guess_floor_is_the_pass_at_k_of_a_random_guesser() -> None:
    # Among 4 answers two guesses both miss with probability (3/4)^2 = 9/16.
    assert guess_floor(4, 2) == pytest.approx(7 / 16)
    assert guess_floor(1000, 64) == pytest.approx(0.062, abs=0.001)  # 6 % of AIME's integers
    with pytest.raises(ValueError, match="at least 1 answer"):
        guess_floor(0, 1)
