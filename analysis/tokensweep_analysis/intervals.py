"""Estimates with intervals that say what they are about.

A score table has a row per training run and a column per question, so its mean varies for two reasons that
are crossed: other questions, other training seeds. Ignoring either gives intervals that are far too narrow
(simulated false positive rates of 16 to 60 % at nominal 5 %). Functions take one table, or a sequence of
tables for the mean over benchmarks that weigh the same; the plural ones take M metrics at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf

import numpy as np
from scipy import special

from tokensweep_analysis.crossed import Design, Scores, Tables, arm_design, difference_design
from tokensweep_analysis.power import detectable_difference

__all__ = [
    "DIFFERENCE",
    "NO_SPREAD",
    "ONE_CHECKPOINT",
    "SHARE",
    "TWO_CHECKPOINTS",
    "UNLIMITED",
    "Estimand",
    "Estimate",
    "Limits",
    "Scores",
    "Tables",
    "arm_estimate",
    "arm_estimates",
    "difference_estimate",
    "difference_estimates",
    "estimates_of",
]


Limits = tuple[float, float]  # the smallest and the largest value that a quantity can take
EachLimits = Limits | list[Limits]  # the same for all metrics, or a pair for each
UNLIMITED: Limits = (-inf, inf)
SHARE: Limits = (0.0, 1.0)
DIFFERENCE: Limits = (-1.0, 1.0)  # of two shares


class Estimand(StrEnum):
    """What an interval is about: checkpoints or the method, these questions or questions like these."""

    E1 = "E1: these checkpoints, these questions"
    E2 = "E2: these checkpoints, questions like these"
    E3 = "E3: the method, these questions"
    E4 = "E4: the method, questions like these"


_ESTIMANDS = {  # by: several runs, several questions
    (False, False): Estimand.E1,
    (False, True): Estimand.E2,
    (True, False): Estimand.E3,
    (True, True): Estimand.E4,
}
NO_SPREAD = "where scores have no spread between runs or questions there is no interval"
ONE_CHECKPOINT = "one training run: the interval is about this checkpoint, not about the method"
TWO_CHECKPOINTS = "one training run per arm: the claim is about two checkpoints"
_ONE_QUESTION = "a benchmark of one question: the interval is about these questions, not questions like these"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean, or a difference of means, with its confidence interval.

    ``standard_error``, ``df``, ``low`` and ``high`` are NaN where the data give no interval; ``remark``
    says why, and what else a reader must know.
    """

    value: float
    low: float
    high: float
    standard_error: float
    df: float  # Satterthwaite
    estimand: Estimand
    num_runs: int  # per arm, the smaller one for a difference
    num_questions: int  # of all benchmarks
    confidence: float
    remark: str = ""
    limits: Limits = field(default=UNLIMITED, compare=False)

    def interval(self, confidence: float) -> tuple[float, float]:
        """The interval of another confidence, within ``limits``; NaN where there is none."""
        half = _quantile(confidence, self.df) * self.standard_error
        low, high = np.clip([self.value - half, self.value + half], *self.limits)
        return float(low), float(high)

    def at(self, confidence: float) -> Estimate:
        """The same estimate with the interval of another confidence."""
        low, high = self.interval(confidence)
        return replace(self, low=low, high=high, confidence=confidence)

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided p of Student's t for the true value ``null``; NaN where there is no interval."""
        return 2 * float(special.stdtr(self.df, -abs(self.value - null) / self.standard_error))

    def p_above(self, null: float) -> float:
        """One-sided p against "at most ``null``": small when the true value lies above."""
        return float(special.stdtr(self.df, (null - self.value) / self.standard_error))

    def p_below(self, null: float) -> float:
        """One-sided p against "at least ``null``": small when the true value lies below."""
        return float(special.stdtr(self.df, (self.value - null) / self.standard_error))

    def detectable(self, *, alpha: float = 0.05, power: float = 0.8) -> float:
        """The smallest true difference that such data find; see :func:`power.detectable_difference`."""
        return float(detectable_difference(self.standard_error, self.df, alpha=alpha, power=power))


def arm_estimate(tables: Tables, *, confidence: float = 0.95, limits: Limits = UNLIMITED) -> Estimate:
    """Mean of a table [S, Q] with a two-way (question x seed) interval, or of one per benchmark.

    ``V_q = s^2(question means) / Q``, ``V_s = s^2(run means) / S``, ``V_r = MS_residual / (S Q)``;
    ``V = max(V_q + V_s - V_r, V_q, V_s)`` with Satterthwaite's degrees of freedom
    ``V^2 / (V_q^2 / (Q - 1) + V_s^2 / (S - 1) + V_r^2 / ((S - 1)(Q - 1)))``. ``(V_q + V_s)^2`` over the
    first two terms would cover only 90 to 93 % at nominal 95 % with three paired runs (simulated).
    Over B benchmarks V_q and V_r are sums over benchmarks divided by ``B^2``, each a source with its own
    degrees of freedom; V_s comes from each run's mean over benchmarks, because they share its seed.
    With one run the interval is about that checkpoint (E2), with one question about that question (E3).
    Its ends are cut to ``limits``, the values that the quantity can take; its coverage stays.
    Raises ValueError for a table that is empty, not finite or not two-dimensional.
    """
    return estimates_of(arm_design(tables), one_run=ONE_CHECKPOINT, confidence=confidence, limits=limits)[0]


def arm_estimates(
    tables: Tables, *, confidence: float = 0.95, limits: EachLimits = UNLIMITED
) -> list[Estimate]:
    """:func:`arm_estimate` of M metrics at once, from tables [S, Q, M], intervals cut to ``limits``."""
    design = arm_design(tables, metrics=True)
    return estimates_of(design, one_run=ONE_CHECKPOINT, confidence=confidence, limits=limits)


def difference_estimate(
    tables: Tables,
    baseline: Tables,
    *,
    seeds: Sequence[int],
    baseline_seeds: Sequence[int],
    confidence: float = 0.95,
) -> Estimate:
    """Mean difference of two arms [S, Q] and [S', Q] on the same questions in the same order.

    Questions are always paired. When both arms have the same training seeds, runs share their data order
    and are paired too: the table of differences is treated as one arm, V_s comes from the run differences.
    Otherwise ``V_s`` and ``V_r`` are sums over the arms. Raises ValueError for tables that do not fit.
    """
    design = difference_design(tables, baseline, seeds=seeds, baseline_seeds=baseline_seeds)
    return estimates_of(design, one_run=TWO_CHECKPOINTS, confidence=confidence)[0]


def difference_estimates(
    tables: Tables,
    baseline: Tables,
    *,
    seeds: Sequence[int],
    baseline_seeds: Sequence[int],
    confidence: float = 0.95,
    limits: EachLimits = UNLIMITED,
) -> list[Estimate]:
    """:func:`difference_estimate` of M metrics at once, from tables [S, Q, M] and [S', Q, M], intervals cut
    to ``limits``."""
    design = difference_design(tables, baseline, seeds=seeds, baseline_seeds=baseline_seeds, metrics=True)
    return estimates_of(design, one_run=TWO_CHECKPOINTS, confidence=confidence, limits=limits)


def estimates_of(
    design: Design, *, one_run: str, confidence: float, limits: EachLimits = UNLIMITED
) -> list[Estimate]:
    """An estimate per metric; the sources of variance decide the estimand. ``one_run``: remark on one run."""
    errors, dfs = design.spread()
    halves = _quantile(confidence, dfs) * errors
    each_limits = limits if isinstance(limits, list) else [limits] * len(design.value)
    least, most = np.array(each_limits, dtype=np.float64).T
    lows, highs = (np.clip(ends, least, most) for ends in (design.value - halves, design.value + halves))
    several = design.questions_per_benchmark
    estimand, num_questions = _ESTIMANDS[bool(design.runs), bool(design.questions)], sum(several)
    remarks = [one_run] * (design.num_runs == 1) + [_ONE_QUESTION] * (min(several) == 1 < len(several))
    usual, without_spread = "; ".join(remarks), "; ".join([*remarks, NO_SPREAD])
    return [
        Estimate(
            value=value,
            low=low,
            high=high,
            standard_error=error,
            df=df,
            estimand=estimand,
            num_runs=design.num_runs,
            num_questions=num_questions,
            confidence=confidence,
            remark=usual if error == error else without_spread,
            limits=own,
        )
        for value, low, high, error, df, own in zip(
            *(each.tolist() for each in (design.value, lows, highs, errors, dfs)), each_limits, strict=True
        )
    ]


def _quantile(confidence: float, df: Scores | float) -> Scores:
    """Half the width of an interval in standard errors."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return np.asarray(special.stdtrit(df, (1 + confidence) / 2))
