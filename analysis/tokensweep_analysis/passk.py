"""pass@k and avg@n of one question from its number of samples and of correct ones."""

from __future__ import annotations

from math import prod


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that at least one of ``k`` samples drawn without replacement is correct.

    ``1 - C(n - c, k) / C(n, k)``, the unbiased estimate of pass@k from ``n >= k`` samples (arXiv:2107.03374,
    equation 1), as the product of ``1 - k / i`` over ``i = n - c + 1 .. n``: no factorial, no cancellation.
    Raises ValueError for ``k`` above ``n``, where pass@k is undefined, and for counts that cannot be.
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"correct samples must lie between 0 and {num_samples}, got {num_correct}")
    if not 1 <= k <= num_samples:
        raise ValueError(
            f"pass@k needs 1 <= k <= samples, got k={k} and {num_samples} samples: draw more or lower k"
        )
    if num_samples - num_correct < k:
        return 1.0  # too few wrong samples to fill a draw
    return 1.0 - prod(1.0 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1))


def avg_at_n(num_samples: int, num_correct: int) -> float:
    """Share of correct samples; equal to pass@1. Raises ValueError for counts that cannot be."""
    return pass_at_k(num_samples, num_correct, 1)
