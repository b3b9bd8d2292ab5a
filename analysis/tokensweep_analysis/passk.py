"""pass@k, pass^k and their companions of one question, from its number of samples and of correct ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that at least one of ``k`` samples drawn without replacement is correct.

    ``1 - C(n - c, k) / C(n, k)``, the unbiased estimate of pass@k from ``n >= k`` samples (arXiv:2107.03374,
    equation 1), as the product of ``1 - k / i`` over ``i = n - c + 1 .. n``: no factorial, no cancellation.
    Raises ValueError for ``k`` above ``n``, where pass@k is undefined, and for counts that cannot be.
    """
    return 1.0 - _none_drawn(num_samples, num_correct, k, name="pass@k")


def pass_hat_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that all of ``k`` samples drawn without replacement are correct, written pass^k.

    ``C(c, k) / C(n, k)``, the unbiased estimate of ``p^k`` (arXiv:2406.12045): no wrong sample is
    drawn. Raises ValueError as :func:`pass_at_k` does.
    """
    check_counts(num_samples, num_correct)
    return _none_drawn(num_samples, num_samples - num_correct, k, name="pass^k")


def cover_at(num_samples: int, num_correct: int, tau: float) -> float:
    """1.0 if at least the share ``tau`` of the samples is correct, else 0.0; its mean is cover@tau.

    A plug-in of ``c / n`` for the unknown accuracy p, hence biased for few samples: a question just below tau
    is counted with a probability near one half, and for ``n < 1 / (1 - tau)`` only a question without a
    wrong sample counts, which is pass^n. Raises ValueError for tau outside of (0, 1] and for counts that
    cannot be.
    """
    check_counts(num_samples, num_correct)
    if not 0 < tau <= 1:
        raise ValueError(f"cover@tau needs 0 < tau <= 1, got {tau:g}")
    return float(num_correct / num_samples >= tau)


def guess_floor(answer_space: int, k: int) -> float:
    """pass@k of a guesser who draws each answer at random from ``answer_space`` equally likely ones.

    ``1 - (1 - 1 / S)^k``. Raises ValueError for an empty answer space or ``k`` below 1.
    """
    if answer_space < 1 or k < 1:
        raise ValueError(f"a guess needs at least 1 answer and k >= 1, got {answer_space} and {k}")
    return 1.0 - (1.0 - 1.0 / answer_space) ** k


def pass_table(num_samples: int, ks: Sequence[int]) -> NDArray[np.float64]:
    """:func:`pass_at_k` of every possible number of correct samples, [num_samples + 1, len(ks)].

    Row c is for c correct samples. Raises ValueError for a k that cannot be drawn.
    """
    return 1.0 - _none_drawn_table(num_samples, tuple(ks), name="pass@k")


def pass_hat_table(num_samples: int, ks: Sequence[int]) -> NDArray[np.float64]:
    """:func:`pass_hat_k` of every possible number of correct samples; otherwise as :func:`pass_table`."""
    return _none_drawn_table(num_samples, tuple(ks), name="pass^k")[::-1]


def cover_column(num_samples: int, tau: float) -> NDArray[np.float64]:
    """:func:`cover_at` of every possible number of correct samples, [num_samples + 1]."""
    return np.array([cover_at(num_samples, count, tau) for count in range(num_samples + 1)])


def check_counts(num_samples: int, num_correct: int) -> None:
    """Raise ValueError unless there is a sample and ``num_correct`` of them can be correct."""
    if num_samples < 1 or not 0 <= num_correct <= num_samples:
        raise ValueError(f"correct samples must lie between 0 and {num_samples}, got {num_correct}")


def check_k(num_samples: int, k: int, *, name: str) -> None:
    """Raise ValueError unless ``k`` samples can be drawn; ``name`` is the number that asks for it."""
    if not 1 <= k <= num_samples:
        raise ValueError(
            f"{name} needs 1 <= k <= samples, got k={k} and {num_samples} samples: draw more or lower k"
        )


def _none_drawn(num_samples: int, num_marked: int, k: int, *, name: str) -> float:
    """Probability that ``k`` samples drawn without replacement hold none of the marked ones."""
    check_counts(num_samples, num_marked)
    check_k(num_samples, k, name=name)
    if num_samples - num_marked < k:
        return 0.0  # too few others to fill a draw
    return prod(1.0 - k / i for i in range(num_samples - num_marked + 1, num_samples + 1))


@lru_cache(maxsize=64)
def _none_drawn_table(num_samples: int, ks: tuple[int, ...], *, name: str) -> NDArray[np.float64]:
    """:func:`_none_drawn` of every number of marked samples, [num_samples + 1, len(ks)]; not to be written.

    One more marked sample adds the factor ``1 - k / i`` with i the number of samples that come before it.
    """
    for k in ks:
        check_k(num_samples, k, name=name)
    others = np.arange(num_samples, 0, -1)[:, None]
    factors = np.maximum(0.0, 1.0 - np.array(ks, dtype=np.float64) / others)  # 0: cannot be filled
    table = np.vstack([np.ones(len(ks)), np.cumprod(factors, axis=0)])
    table.setflags(write=False)
    return table
