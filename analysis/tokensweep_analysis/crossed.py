"""What the variance of a mean over runs and questions is made of. For intervals, bands and planning.

A score table has a row per training run and a column per question. Its mean varies for two reasons that are
crossed: other training seeds, other questions. Several benchmarks are strata: the same runs on other
questions, each benchmark weighing the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]  # [S, Q] run x question, or [S, Q, M] with M metrics at once
Tables = Scores | Sequence[Scores]  # one benchmark, or one table per benchmark: same runs in the same order

# A standard error of a constant is not 0 but some units in the last place of the scores; below 64 of them
# (averages over 1,000 numbers lose fewer) nothing varies.
_ROUNDING = 64 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Source:
    """One source of variance of M means, estimated with ``df`` degrees of freedom."""

    deviations: Scores  # [n, M] of its n levels, scaled so that their squares sum to the variance
    df: int

    @property
    def variance(self) -> Scores:
        """What it adds to the variance of the mean, [M]."""
        return np.asarray(np.einsum("nm,nm->m", self.deviations, self.deviations))


@dataclass(frozen=True, kw_only=True)
class Design:
    """M means, or differences of means, with the sources of their variance.

    ``questions`` and ``runs`` both contain how questions differ between runs; ``both`` is that part alone.
    """

    value: Scores  # [M]
    questions: tuple[Source, ...]  # a source per benchmark; none where a benchmark has one question
    runs: tuple[Source, ...]  # a source per arm, one for arms that are paired by seed; none for one run
    both: tuple[Source, ...]  # a source per arm and benchmark
    num_runs: int  # per arm, the smaller one for a difference
    questions_per_benchmark: tuple[int, ...]
    rounding: Scores  # [M] standard errors below are rounding

    def spread(self) -> tuple[Scores, Scores]:
        """Standard error and degrees of freedom, both [M] and NaN where the scores do not vary.

        ``V = max(V_q + V_s - V_r, V_q, V_s)`` with Satterthwaite's degrees of freedom
        ``V^2 / sum(V_i^2 / df_i)`` over every source, those in V_r included, and at least the smallest
        ``df_i`` of questions and runs, because a difference of variances may fall below it.
        """
        v_q, v_s, v_r = (self._total(sources) for sources in (self.questions, self.runs, self.both))
        variance = np.maximum(v_q + v_s - v_r, np.maximum(v_q, v_s))
        variance[variance <= self.rounding**2] = np.nan
        sources = [*self.questions, *self.runs, *self.both]
        squares = sum((each.variance**2 / each.df for each in sources), np.zeros_like(variance))
        with np.errstate(invalid="ignore", divide="ignore"):
            df = variance**2 / squares
        least = min((each.df for each in [*self.questions, *self.runs]), default=np.nan)
        return np.sqrt(variance), np.maximum(df, least)

    def _total(self, sources: Sequence[Source]) -> Scores:
        return sum((each.variance for each in sources), np.zeros_like(self.value))


def arm_design(tables: Tables, *, metrics: bool = False) -> Design:
    """The mean of an arm. ``metrics``: tables are [S, Q, M]. Raises ValueError for tables that do not fit."""
    strata = _strata(tables, metrics=metrics)
    return _design([table.mean(axis=0) for table in strata], [strata], rounding=_rounding(strata))


def difference_design(
    tables: Tables,
    baseline: Tables,
    *,
    seeds: Sequence[int],
    baseline_seeds: Sequence[int],
    metrics: bool = False,
) -> Design:
    """The difference of two arms, paired by question and, where they have the same seeds, by seed.

    Raises ValueError for tables that do not fit each other or their seeds.
    """
    left, right = _strata(tables, metrics=metrics), _strata(baseline, metrics=metrics)
    _check_pair(left, right, seeds=seeds, baseline_seeds=baseline_seeds)
    rounding = np.maximum(_rounding(left), _rounding(right))
    if sorted(seeds) == sorted(baseline_seeds):
        own, other = np.argsort(seeds), np.argsort(baseline_seeds)
        paired = [a[own] - b[other] for a, b in zip(left, right, strict=True)]
        return _design([table.mean(axis=0) for table in paired], [paired], rounding=rounding)
    by_question = [a.mean(axis=0) - b.mean(axis=0) for a, b in zip(left, right, strict=True)]
    return _design(by_question, [left, right], rounding=rounding)


def _design(by_question: Sequence[Scores], arms: Sequence[Sequence[Scores]], *, rounding: Scores) -> Design:
    """``by_question`` has what is averaged, [Q, M] per benchmark; seeds vary within each of ``arms``."""
    weight = 1 / len(by_question)
    num_runs = min(len(strata[0]) for strata in arms)
    sizes = tuple(len(each) for each in by_question)
    questions = [_levels(each, weight) for each in by_question] if min(sizes) > 1 else []
    runs, both = [], []
    if num_runs > 1:
        means = [weight * sum(table.mean(axis=1) for table in strata) for strata in arms]
        runs = [_levels(each) for each in means]
    if questions and runs:
        both = [_residual(table, weight) for strata in arms for table in strata]
    return Design(
        value=np.asarray(weight * sum(each.mean(axis=0) for each in by_question)),
        questions=tuple(questions),
        runs=tuple(runs),
        both=tuple(both),
        num_runs=num_runs,
        questions_per_benchmark=sizes,
        rounding=rounding,
    )


def _levels(values: Scores, weight: float = 1.0) -> Source:
    """The mean of independent values [n, M], multiplied by ``weight``: ``weight^2 s^2 / n``."""
    df = len(values) - 1
    return Source(weight * (values - values.mean(axis=0)) / np.sqrt(len(values) * df), df)


def _residual(table: Scores, weight: float) -> Source:
    """``weight^2 MS_residual / (S Q)`` of a table [S, Q, M]."""
    num_runs, num_questions, num_metrics = table.shape
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean(axis=(0, 1))
    df = (num_runs - 1) * (num_questions - 1)
    cells = num_runs * num_questions
    return Source(weight * rest.reshape(cells, num_metrics) / np.sqrt(df * cells), df)


def _rounding(strata: Sequence[Scores]) -> Scores:
    return np.asarray(_ROUNDING * np.max([np.abs(table).max(axis=(0, 1)) for table in strata], axis=0))


def _strata(tables: Tables, *, metrics: bool) -> list[Scores]:
    """One table [S, Q, M] per benchmark."""
    strata = [_checked(each, metrics=metrics) for each in as_list(tables)]
    if not strata:
        raise ValueError("scores must have at least one benchmark, got an empty list of tables")
    if len({(len(table), table.shape[2]) for table in strata}) > 1:
        shapes = ", ".join(str(table.shape) for table in strata)
        raise ValueError(
            f"every benchmark must have the same runs and metrics, got tables of shape {shapes}: "
            "keep the runs that have all of them"
        )
    return strata


def as_list(tables: Tables) -> list[Scores]:
    """The tables of all benchmarks."""
    return [tables] if isinstance(tables, np.ndarray) else list(tables)


def _checked(scores: Scores, *, metrics: bool) -> Scores:
    table = np.asarray(scores, dtype=np.float64)
    axes = "[runs, questions, metrics]" if metrics else "[runs, questions]"
    if table.ndim != 2 + metrics or table.size == 0 or not np.isfinite(table).all():
        bad = f" with {np.count_nonzero(~np.isfinite(table))} cells that are no number"
        raise ValueError(f"scores must be a finite table {axes}, got shape {table.shape}{bad}")
    return table if metrics else table[..., np.newaxis]


def _check_pair(
    left: Sequence[Scores],
    right: Sequence[Scores],
    *,
    seeds: Sequence[int],
    baseline_seeds: Sequence[int],
) -> None:
    own, other = ([table.shape[1:] for table in strata] for strata in (left, right))
    if own != other:
        counts = (", ".join(str(shape[0]) for shape in shapes) for shapes in (own, other))
        raise ValueError(f"both arms must have the same questions, got {' and '.join(counts)}")
    if len(seeds) != len(left[0]) or len(baseline_seeds) != len(right[0]):
        raise ValueError(
            f"each run needs a seed, got {len(seeds)} and {len(baseline_seeds)} seeds "
            f"for {len(left[0])} and {len(right[0])} runs"
        )
    for each in (seeds, baseline_seeds):
        if len(set(each)) < len(each):
            raise ValueError(f"runs of an arm must have different seeds, got {sorted(each)}: drop the copies")
