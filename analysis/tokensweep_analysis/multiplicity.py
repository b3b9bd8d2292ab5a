"""p values and interval levels of one comparison among several. A NaN p is not part of the family."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted by Holm's step-down method: the family-wise error rate stays below what they are held to.

    For claims that were fixed before the runs. NaN stays NaN and does not count. Source: S. Holm,
    Scand. J. Statist. 6 (1979) 65. Not statsmodels' ``multipletests``, which collects garbage in each call.
    """

    def adjusted(known: _Floats) -> _Floats:
        order = np.argsort(known, kind="stable")
        steps = known[order] * np.arange(len(known), 0, -1)
        result = np.empty_like(known)
        result[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
        return result

    return _for_known(p_values, adjusted)


def holm_confidences(p_values: Sequence[float], *, confidence: float = 0.95) -> list[float]:
    """The confidence of each contrast's interval after Holm's adjustment of the tests with these p.

    With p ascending, m of them and ``alpha = 1 - confidence``, step j has level ``alpha / (m - j + 1)``; from
    the first step that is not significant on, all contrasts have the level of that step. NaN gets NaN. Of
    one-sided tests with levels a, the interval to look at is that of confidence ``1 - 2 a``.

    Exact: an interval leaves out the value that its p was for if and only if the Holm-adjusted p is at most
    alpha, so the chance of any false finding is at most alpha. Only that: an end held to another value needs
    the levels of that test's own p values, or ``1 - alpha / m`` (:func:`bonferroni_confidence`), which also
    makes all intervals hold at once. With levels borrowed from tests against 0, some effect of 3.5 standard
    errors is ruled out falsely in 26 % of families of eight instead of 5 % (simulated).
    Source: levels as in Strassburger and Bretz, Statist. Med. 27 (2008) 4914. Departure: a contrast that is
    significant keeps the interval of its own step, where theirs ends at 0.
    """

    def levels(known: _Floats) -> _Floats:
        order = np.argsort(known, kind="stable")
        steps = (1 - confidence) / np.arange(len(known), 0, -1)
        failed = np.flatnonzero(known[order] > steps)
        if len(failed):
            steps[failed[0] :] = steps[failed[0]]
        result = np.empty_like(known)
        result[order] = 1 - steps
        return result

    return _for_known(p_values, levels)


def bonferroni_confidence(num_contrasts: int, *, confidence: float = 0.95) -> float:
    """The confidence with which each of several intervals is drawn so that all hold at once."""
    if num_contrasts < 1:
        raise ValueError(f"a family needs at least one contrast, got {num_contrasts}")
    return 1 - (1 - confidence) / num_contrasts


def _for_known(p_values: Sequence[float], function: Callable[[_Floats], _Floats]) -> list[float]:
    """``function`` of the p values that are numbers, in their places; NaN elsewhere."""
    every = np.asarray(p_values, dtype=np.float64)
    known = ~np.isnan(every)
    if np.any((every[known] < 0) | (every[known] > 1)):
        raise ValueError(f"p values must lie between 0 and 1 or be NaN, got {list(p_values)}")
    result = np.full(every.shape, np.nan)
    if known.any():
        result[known] = function(every[known])
    return [float(each) for each in result]
