"""What is read off estimates besides their intervals: equivalence, a sceptic's view, shrunken rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import special

from tokensweep_analysis.intervals import Estimate


def tost_p(estimate: Estimate, margin: float) -> float:
    """p of two one-sided t tests: small when the true value lies between ``-margin`` and ``margin``.

    Below alpha if and only if the interval of confidence ``1 - 2 alpha`` lies inside; NaN without one. Raises
    ValueError for a margin that is not positive.
    Source: D. Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657. Departure: none.
    """
    if not margin > 0:
        raise ValueError(f"the margin of an equivalence must be positive, got {margin}")
    each = (estimate.p_above(-margin), estimate.p_below(margin))
    return float(np.maximum(*each))  # unlike max, keeps NaN


@dataclass(frozen=True)
class Normal:
    """What is believed of a difference."""

    mean: float
    sd: float

    def above(self, x: float) -> float:
        """Probability of a difference larger than ``x``."""
        return float(special.ndtr((self.mean - x) / self.sd))

    def within(self, x: float) -> float:
        """Probability of a difference between ``-x`` and ``x``."""
        return float(special.ndtr((x - self.mean) / self.sd) - special.ndtr((-x - self.mean) / self.sd))


def posterior(estimate: Estimate, *, tau: float = 0.03) -> Normal:
    """Belief in a difference by one who expected none, give or take ``tau`` (3 points).

    Prior N(0, tau^2), likelihood N(d, V): mean ``d tau^2 / (tau^2 + V)``, variance ``1 / (1/tau^2 + 1/V)``.
    V counts as known, so with few degrees of freedom this believes more than the interval beside it. NaN
    where there is no interval. Raises ValueError for a ``tau`` that is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    variance = estimate.standard_error**2
    weight = tau**2 / (tau**2 + variance)
    return Normal(estimate.value * weight, sqrt(weight * variance))


def shrunken(values: Sequence[float], standard_errors: Sequence[float]) -> list[float]:
    """Values of several arms drawn towards their mean, so that the best one is not the luckiest one.

    ``mean + tau^2 / (tau^2 + SE^2) (value - mean)`` with the variance between arms
    ``tau^2 = max(0, s^2(values) - mean(SE^2))``, by moments. Arms without a standard error get NaN and do not
    count. Raises ValueError for fewer than two arms that do, because one has nothing to be drawn to.
    """
    value, error = np.asarray(values, dtype=np.float64), np.asarray(standard_errors, dtype=np.float64)
    if value.shape != error.shape:
        raise ValueError(f"each value needs a standard error, got {len(value)} and {len(error)}")
    known = np.isfinite(value) & np.isfinite(error)
    if known.sum() < 2:
        raise ValueError(
            f"shrinkage needs two arms or more that have a value and a standard error, got {known.sum()}"
        )
    mean = value[known].mean()
    between = max(0.0, float(value[known].var(ddof=1) - (error[known] ** 2).mean()))
    result = np.full(value.shape, np.nan)
    squares = error[known] ** 2
    total = between + squares
    weights = np.divide(between, total, out=np.ones_like(total), where=total > 0)  # all SE 0: as measured
    result[known] = mean + weights * (value[known] - mean)
    return [float(each) for each in result]
