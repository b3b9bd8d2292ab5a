"""Differences between two arms: what a contrast table has in a row. For the report, the pages and MLflow."""

from __future__ import annotations

from dataclasses import dataclass

from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.metrics import Metric

POOLED = "pooled"  # the benchmark that stands for the mean over all benchmarks of a setting, each weighing the same


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """An arm minus another on the same questions; shares, so 0.01 is one point."""

    setting: str
    benchmark: str  # or POOLED
    arm: str
    baseline: str
    metric: Metric
    estimate: Estimate
    p_value: float  # two-sided, for no difference; NaN where there is no interval
    p_holm: float  # adjusted for all arms that meet this baseline on this benchmark and metric
    detectable: float  # the smallest true difference that such a comparison finds in 80 of 100 repetitions
    remark: str = ""
