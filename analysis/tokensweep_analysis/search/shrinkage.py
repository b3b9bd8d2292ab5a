"""How much too high the best of many noisy values is: empirical Bayes. Numbers in, numbers out.

The largest of many noisy values is, on average, too large: it was picked for its luck too. With values
``v_i = theta_i + noise_i``, ``theta_i`` spread with variance ``tau^2`` around ``m`` and noise of variance
``s_i^2``, the best guess of ``theta_i`` in squared error is ``m + tau^2 / (tau^2 + s_i^2) (v_i - m)``,
with ``m`` and ``tau^2`` estimated from all values. That holds for the value that was picked as well, since
it conditions on all of them.

Source: Efron and Morris (1975), Data analysis using Stein's estimator and its generalizations, JASA 70,
311-319, after James and Stein (1961). Departures: noise variances differ and are estimated; ``tau^2`` is
their method of moments without the factor (k - 3) / (k - 1), so that values are shrunk a little more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 4  # values; towards a mean that is estimated too, shrinking is no gain in squared error below

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """Values after shrinking, and what they were shrunk by."""

    values: tuple[float, ...]
    noise: tuple[float, ...]  # s_i, standard error of each value
    mean: float  # m
    spread: float  # tau, standard deviation of the true values


def question_noise(scores: Floats) -> Floats:
    """Noise variance of each trial's mean over questions, [T], from ``scores`` [T, Q].

    ``r`` is what is left of a score after the means of its trial and of its question; the variance over
    questions of a trial is ``sum_q r^2 / ((T - 1)(Q - 1) / T)``, that of its mean a Q-th of it. How hard the
    questions are is the same luck for all trials, so it does not count. Unbiased when trials are equally
    noisy; else each is drawn a little towards the mean of all. Raises ValueError for fewer than two trials
    or questions.
    """
    num_trials, num_questions = scores.shape
    if num_trials < 2 or num_questions < 2:
        raise ValueError(
            f"noise needs at least 2 trials and 2 questions, got {num_trials} and {num_questions}"
        )
    left = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    freedom = (num_trials - 1) * (num_questions - 1) / num_trials
    noise: Floats = (left**2).sum(axis=1) / freedom / num_questions
    return noise


def seed_noise(by_seed: Sequence[Sequence[float]]) -> Floats | None:
    """Noise variance of each trial's mean over training seeds, [T]; None when no trial has two seeds.

    ``by_seed`` holds each trial's value per seed. The variance between seeds is pooled over trials, weighed
    by degrees of freedom, and divided by a trial's number of seeds. It contains the noise of questions that
    a seed answers by itself, so adding it to :func:`question_noise` counts that part twice, on the side of
    more shrinking.
    """
    freedom = sum(len(own) - 1 for own in by_seed)
    if freedom < 1:
        return None
    squares = sum(float(((np.array(own) - np.mean(own)) ** 2).sum()) for own in by_seed)
    return squares / freedom / np.array([len(own) for own in by_seed], dtype=np.float64)


def shrink(values: Sequence[float], noise: Floats) -> Shrunk:
    """Values [T] drawn towards their mean, given their noise variances [T].

    ``tau^2 = max(0, variance of the values with T - 1 - mean noise variance)``. Raises ValueError for fewer
    than four values.
    """
    if len(values) < FEWEST:
        raise ValueError(f"shrinking needs at least {FEWEST} values, got {len(values)}")
    found = np.array(values, dtype=np.float64)
    mean = float(found.mean())
    spread = max(0.0, float(found.var(ddof=1) - noise.mean()))
    total = spread + noise
    share = np.divide(spread, total, out=np.ones_like(total), where=total > 0)  # no noise: nothing to shrink
    return Shrunk(
        values=tuple((mean + share * (found - mean)).tolist()),
        noise=tuple(np.sqrt(noise).tolist()),
        mean=mean,
        spread=spread**0.5,
    )
