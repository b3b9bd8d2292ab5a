"""Recomputes the averages that a table prints. For the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from math import prod

from tokensweep_analysis.published.finding import Checked, Finding, Rule, grouped, in_order, points
from tokensweep_analysis.published.reader import Cell
from tokensweep_analysis.published.spelling import Statistic

_MOST_COMBINATIONS = 64  # of benchmark sizes, where several are in use
_FEWEST = 2

NO_CELLS = "printed average without at least two cells to recompute it from"
OTHER_COUNT = "printed average over another number of benchmarks than the table has"
AMBIGUOUS = "several cells of one benchmark: unclear which were averaged"


def check_averages(cells: Sequence[Cell]) -> Checked:
    """Printed averages that are not the mean of their cells, beyond what rounding can do."""
    findings, skipped, num_checked = [], Counter[str](), 0
    for own in grouped(cells, lambda cell: (cell.source, cell.base_model, cell.arm)).values():
        for average in (cell for cell in own if cell.benchmark.is_mean):
            parts, reason = averaged(average, own)
            if reason:
                skipped[reason] += 1
                continue
            num_checked += 1
            finding = _check(average, parts)
            findings += [finding] if finding else []
    return Checked(findings=tuple(findings), num_checked=num_checked, skipped=in_order(dict(skipped)))


def averaged(average: Cell, own: Sequence[Cell]) -> tuple[list[Cell], str]:
    """The cells of an arm that a printed average is over, or why they cannot be told.

    They are of the statistic that the average names; one that names none is over one cell per benchmark.
    """
    parts = [cell for cell in own if not cell.benchmark.is_mean and _belongs(cell, average)]
    exact = [cell for cell in parts if cell.metric_text == average.metric_text]
    names = [cell.benchmark.name for cell in parts]
    if len(set(names)) < len(names) and len(exact) >= _FEWEST:
        parts = exact
        names = [cell.benchmark.name for cell in parts]
    if len(set(names)) < len(names):
        return [], AMBIGUOUS
    if len(parts) < _FEWEST:
        return [], NO_CELLS
    if average.benchmark.num_averaged not in (None, len(parts)):
        return [], OTHER_COUNT
    return parts, ""


def _belongs(cell: Cell, average: Cell) -> bool:
    if average.metric.statistic is Statistic.mean:
        return cell.metric.is_accuracy
    return cell.metric.family == average.metric.family


def _check(average: Cell, parts: Sequence[Cell]) -> Finding | None:
    values = [cell.value.points for cell in parts]
    mean = sum(values) / len(values)
    slack = sum(cell.value.rounding for cell in parts) / len(parts)
    if average.value.is_near(mean, slack):
        return None
    cells_give = f"the {len(parts)} cells give {points(mean)}"
    text = f"printed {average.value.text}, {cells_give}; {_weighted(average, parts)}"
    return Finding(
        rule=Rule.average,
        source=average.source,
        where=f"{average.base_model}, {average.arm}: {average.benchmark_text}",
        lines=(average.line,),
        printed=average.value.text,
        expected=points(mean),
        text=text,
    )


def _weighted(average: Cell, parts: Sequence[Cell]) -> str:
    """Whether weighing by numbers of questions explains the average."""
    unknown = [cell.benchmark_text for cell in parts if not cell.benchmark.sizes]
    if unknown:
        return f"whether it weighs by questions cannot be told, size unknown: {', '.join(unknown)}"
    choices = [cell.benchmark.sizes for cell in parts]
    if prod(map(len, choices)) > _MOST_COMBINATIONS:
        choices = [sizes[:1] for sizes in choices]
    first = None
    for sizes in product(*choices):
        total = sum(sizes)
        mean = sum(size * cell.value.points for size, cell in zip(sizes, parts, strict=True)) / total
        slack = sum(size * cell.value.rounding for size, cell in zip(sizes, parts, strict=True)) / total
        if average.value.is_near(mean, slack):
            return (
                f"the mean weighted by questions ({' + '.join(map(str, sizes))}) is {points(mean)} and fits"
            )
        first = mean if first is None else first
    return f"weighted by questions they give {points(first or 0.0)}, no fit either"
