"""pass@k is the share of k-subsets that hold a correct sample."""

from __future__ import annotations

from itertools import combinations

import pytest

from tokensweep_analysis.passk import avg_at_n, pass_at_k


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
    assert avg_at_n(32, 5) == pytest.approx(5 / 32)


@pytest.mark.parametrize("k", [0, 9])
def test_k_outside_of_the_samples_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"1 <= k <= samples, got k={k} and 8 samples"):
        pass_at_k(8, 3, k)


@pytest.mark.parametrize("num_correct", [-1, 9])
def test_impossible_counts_are_refused(num_correct: int) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 8"):
        pass_at_k(8, num_correct, 1)
