"""Differences between two arms: what a contrast table has in a row. For the report, the pages and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tokensweep_analysis.arms import Arm, pair_mismatch
from tokensweep_analysis.bands import difference_band
from tokensweep_analysis.intervals import DIFFERENCE, Estimate, difference_estimates
from tokensweep_analysis.metrics import Metric, doubling
from tokensweep_analysis.multiplicity import holm


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """An arm minus another on the same questions; shares, so 0.01 is one point."""

    setting: str
    benchmark: str  # or claims.POOLED
    arm: str
    baseline: str
    metric: Metric
    estimate: Estimate
    p_value: float  # two-sided, for no difference; NaN where there is no interval
    p_holm: float  # adjusted for all arms that meet this baseline on this benchmark and metric
    detectable: float  # the smallest true difference that such a comparison finds in 80 of 100 repetitions
    remark: str = ""


def differences(
    left: Arm, right: Arm, *, metrics: Sequence[Metric], confidence: float = 0.95
) -> dict[Metric, Estimate]:
    """``left - right`` for each metric. Empty when an arm has no run or their evaluations do not fit."""
    if not metrics or not _can_be_compared(left, right):
        return {}
    estimates = difference_estimates(
        left.tables(metrics),
        right.tables(metrics),
        seeds=left.seeds,
        baseline_seeds=right.seeds,
        confidence=confidence,
        limits=[metric.difference_limits for metric in metrics],
    )
    return dict(zip(metrics, estimates, strict=True))


def difference_curve(left: Arm, right: Arm, *, confidence: float = 0.95) -> dict[Metric, Estimate]:
    """``left - right`` of pass@k at rising k, with a band that holds at all of them; empty as above.

    An interval of each k alone would place where curves cross too surely.
    """
    if not _can_be_compared(left, right):
        return {}
    points = doubling(min(left.largest_k, right.largest_k))
    band = difference_band(
        left.tables(points),
        right.tables(points),
        seeds=left.seeds,
        baseline_seeds=right.seeds,
        confidence=confidence,
        limits=DIFFERENCE,
    )
    return dict(zip(points, band.estimates, strict=True))


def _can_be_compared(left: Arm, right: Arm) -> bool:
    return bool(left.runs and right.runs and not pair_mismatch(left, right))


def adjusted(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts with ``p_holm``, adjusted over all that share setting, benchmark, baseline and metric."""
    families: dict[object, list[int]] = {}
    for place, each in enumerate(contrasts):
        families.setdefault((each.setting, each.benchmark, each.baseline, each.metric), []).append(place)
    found: dict[int, float] = {}
    for places in families.values():
        found |= dict(zip(places, holm([contrasts[place].p_value for place in places]), strict=True))
    return [replace(each, p_holm=found[place]) for place, each in enumerate(contrasts)]


def contrasts_of(
    *, setting: str, benchmark: str, arm: str, baseline: str, estimates: Mapping[Metric, Estimate]
) -> list[Contrast]:
    """A contrast per metric, before any adjustment."""
    return [
        Contrast(
            setting=setting,
            benchmark=benchmark,
            arm=arm,
            baseline=baseline,
            metric=metric,
            estimate=each,
            p_value=each.p_value(),
            p_holm=float("nan"),
            detectable=each.detectable(),
            remark=each.remark,
        )
        for metric, each in estimates.items()
    ]
