"""Variances to plan claims on pass@k, pass^k and cover@tau with, from those assumed of an average."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tokensweep_analysis.metrics import STATED, Kind, Metric, by_count
from tokensweep_analysis.power import Components

# Accuracies of questions are Beta(0.3, 0.7): their mean p (1 - p) is 0.3 * 0.7 / 2 = 0.105, the `within` of
# power.CENTRAL, and (1 - p)^128 has the mean 0.18; 5 and 7 of the 30 questions that `within` was measured on
# were never solved in 128 samples. Ends leave out 2e-8 of the questions.
_BETA = (0.3, 0.7)
_STEP = 0.1
_LOG_ODDS = np.arange(-60.0, 30.0, _STEP)  # [G] a sum over it is as exact as its ends, densities being smooth
_ACCURACY = special.expit(_LOG_ODDS)  # [G]
_WEIGHTS = _ACCURACY ** _BETA[0] * special.expit(-_LOG_ODDS) ** _BETA[1]  # [G] of questions, in log-odds
_WEIGHTS /= _WEIGHTS.sum()

Curve = NDArray[np.float64]  # [G] over _LOG_ODDS


def components_for(metric: Metric, components: Components, *, samples: int) -> Components:
    """What the components of an average become for a metric of ``samples`` samples; those of avg@n stay.

    An effect of an arm or a seed moves the log-odds of a question by a normal number that has the same SD for
    all questions, hence accuracies by ``p (1 - p)`` times it where it is small. Every component is multiplied
    by what that does to the metric over what it does to the accuracy. ``within / samples`` is the sampling
    variance of a question's number. The SD of a contrast is met within 8 % for pass@k and pass^k, and is up
    to 18 % too large for cover@tau of up to 128 samples, simulated. Raises ValueError for a k above the
    samples, and for what :func:`beyond_accuracy` names.
    """
    if what := beyond_accuracy(metric):
        raise ValueError(f"{metric} depends on {what}: take components from finished runs")
    curves = _curves(metric, samples)
    slope = _ACCURACY * (1 - _ACCURACY)  # of the accuracy
    width = components.omega / 2**0.5 / _size(slope)  # omega is of the difference of two arms
    return Components(
        omega=components.omega * _ratio(curves.mean, width),
        sigma_seed=components.sigma_seed * float(_WEIGHTS @ curves.slope / (_WEIGHTS @ slope)),
        sigma_seed_question=components.sigma_seed_question
        * _ratio(curves.mean, components.sigma_seed_question / _size(slope)),
        within=components.within * float(_WEIGHTS @ curves.variance / (_WEIGHTS @ slope)) * samples,
    )


def beyond_accuracy(metric: Metric) -> str:
    """What a metric depends on besides the accuracies of questions; empty for one that does not."""
    if metric.kind is Kind.maj_at:
        return "which wrong answers agree"
    return "how sure samples are" if metric.kind in STATED else ""


@dataclass(frozen=True)
class _Curves:
    """A metric of a question by its log-odds, with c of n samples binomial."""

    mean: Curve
    slope: Curve  # of the mean by the log-odds
    variance: Curve  # of what samples give


@lru_cache(maxsize=16)
def _curves(metric: Metric, samples: int) -> _Curves:
    """Sums over c. The slope is the covariance with c, as d log P(c) = (c - n p) d log-odds."""
    values = by_count((metric,), samples)[:, 0]  # [n + 1]
    counts = np.arange(samples + 1)
    ways = special.gammaln(samples + 1) - special.gammaln(counts + 1) - special.gammaln(samples - counts + 1)
    logs = np.outer(special.log_expit(_LOG_ODDS), counts)
    logs += np.outer(special.log_expit(-_LOG_ODDS), samples - counts)
    chances = np.exp(logs + ways)  # [G, n + 1]
    mean = chances @ values
    deviations = values - mean[:, None]
    return _Curves(
        mean=mean,
        slope=np.einsum("gc,gc,c->g", chances, deviations, counts),
        variance=np.einsum("gc,gc,gc->g", chances, deviations, deviations),
    )


def _ratio(curve: Curve, width: float) -> float:
    """SD that a normal shift of the log-odds gives the metric, over the one that it gives the accuracy."""
    # Below half a step the kernel has no width left, and the ratio does not depend on it any more.
    return _spread(curve, max(width, _STEP / 2)) / _spread(_ACCURACY, max(width, _STEP / 2))


def _spread(curve: Curve, width: float) -> float:
    """Root mean square over questions of the SD under normal shifts of the log-odds with SD ``width``."""
    reach = int(np.ceil(6 * width / _STEP))
    kernel = np.exp(-0.5 * (_STEP / width * np.arange(-reach, reach + 1)) ** 2)
    kernel /= kernel.sum()
    first, second = (np.convolve(each, kernel, mode="same") for each in (curve, curve**2))
    return float(np.sqrt(_WEIGHTS @ (second - first**2)))


def _size(curve: Curve) -> float:
    """Root mean square over questions."""
    return float(np.sqrt(_WEIGHTS @ curve**2))
