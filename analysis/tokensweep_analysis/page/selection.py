"""Which arms and metrics a page draws, so that it stays legible and small. For the page's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf

from tokensweep_analysis.claims import POOLED
from tokensweep_analysis.metrics import AVERAGE, Kind, Metric
from tokensweep_analysis.tables import Comparison, Row

MAX_ARMS = 12  # besides the baseline; more lines than that cannot be told apart
MAX_PANELS = 12  # of one kind of plot


@dataclass(frozen=True, eq=False)
class Section:
    """The rows of one setting and benchmark; a key of its own."""

    setting: str
    benchmark: str
    rows: tuple[Row, ...]
    pooled: tuple[str, ...] = ()  # the benchmarks that it is the mean of

    @property
    def title(self) -> str:
        """What stands over its table."""
        place = "all benchmarks pooled" if self.benchmark == POOLED else self.benchmark
        return place if self.setting in ("", self.benchmark) else f"{self.setting}: {place}"

    def of(self, arms: Sequence[str]) -> list[Row]:
        """Its rows with results, in the order of ``arms``."""
        there = {row.arm: row for row in self.rows if row.results}
        return [there[arm] for arm in arms if arm in there]


def sections(comparison: Comparison) -> list[Section]:
    """Settings in their order, in each the pooled benchmarks first and then the others in their order."""
    settings = list(dict.fromkeys(row.setting for row in comparison.rows))
    groups = groupby(comparison.rows, key=lambda row: (row.setting, row.benchmark))
    places = [(setting, benchmark, tuple(rows)) for (setting, benchmark), rows in groups]
    found = [
        Section(setting, benchmark, rows, tuple(b for s, b, _ in places if s == setting and b != POOLED))
        if benchmark == POOLED
        else Section(setting, benchmark, rows)
        for setting, benchmark, rows in places
    ]
    return sorted(found, key=lambda each: (settings.index(each.setting), each.benchmark != POOLED))


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Best mean accuracy first; arms without results last, in their order."""
    return sorted(rows, key=lambda row: -row.results[AVERAGE].value if AVERAGE in row.results else inf)


def drawn_arms(comparison: Comparison) -> tuple[str, ...]:
    """The arms in the plots, in the order of the sweep: all, or the baseline and ``MAX_ARMS`` others.

    Where there are more, arms that a claim names go first, then those that stand highest by mean accuracy in
    a pooled table, or in any table where there is no pooled one.
    """
    arms = list(dict.fromkeys(row.arm for row in comparison.rows))
    others = [arm for arm in arms if arm != comparison.baseline]
    if len(others) <= MAX_ARMS:
        return tuple(arms)
    claimed = [arm for each in comparison.judgements for arm in (each.claim.left, each.claim.right)]
    found = sections(comparison)
    tables = [section for section in found if section.benchmark == POOLED] or found
    orders = [[row.arm for row in ranked(section.rows)] for section in tables]
    last = len(arms)
    places = {arm: min((o.index(arm) for o in orders if arm in o), default=last) for arm in others}
    first = [arm for arm in dict.fromkeys(claimed) if arm in places]
    best = sorted(others, key=lambda arm: places[arm])
    kept = {comparison.baseline, *list(dict.fromkeys([*first, *best]))[:MAX_ARMS]}
    return tuple(arm for arm in arms if arm in kept)


def pass_curve(row: Row) -> list[Metric]:
    """Its pass@k, k rising."""
    return sorted((m for m in row.results if m.kind is Kind.pass_at), key=lambda metric: metric.at)


def spread(row: Row) -> dict[Metric, tuple[float, float]]:
    """Ends of the simultaneous band at its k, or of pointwise intervals at every k where there is none."""
    curve = pass_curve(row)
    if row.band:
        return {metric: row.band[metric] for metric in curve if metric in row.band}
    return {metric: (row.results[metric].low, row.results[metric].high) for metric in curve}


def marked(curve: Sequence[Metric]) -> list[int]:
    """Places in a pass@k curve that get a marker and a column: where k is a power of two, and the last."""
    return [
        place
        for place, metric in enumerate(curve)
        if int(metric.at).bit_count() == 1 or place == len(curve) - 1
    ]


def left_out(comparison: Comparison) -> str:
    """A sentence on the arms that are not drawn; empty when all are."""
    total, drawn = len({row.arm for row in comparison.rows}), len(drawn_arms(comparison))
    if drawn == total:
        return ""
    return (
        f"Plots show {drawn} of {total} arms: the baseline, the arms that claims name and the best of the "
        "others. The best of many look better than they are. The ranking tables have them all."
    )
