"""The numbers behind the plots of a page, for those who do not see them and those who want them exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from tokensweep_analysis.metrics import Metric
from tokensweep_analysis.page.curves import Curve
from tokensweep_analysis.page.markup import Html, join, tag
from tokensweep_analysis.page.numbers import NO_INTERVAL, NOTHING, number, points
from tokensweep_analysis.page.selection import Section, marked, pass_curve, spread
from tokensweep_analysis.page.tables import Column, data_table, stacked
from tokensweep_analysis.tables import Row


def curve_values(section: Section, rows: Sequence[Row], *, key: str) -> Html:
    """pass@k where k is a power of two, and the largest: the numbers of the plot."""
    curves = [pass_curve(row) for row in rows]
    ks = sorted({curve[place] for curve in curves for place in marked(curve)}, key=lambda metric: metric.at)
    columns = [
        Column("arm", [row.arm for row in rows]),
        *(
            Column(f"k = {metric.at:g}", [_with_ends(row, metric, spread(row)) for row in rows])
            for metric in ks
        ),
    ]
    return data_table(columns, caption=f"pass@k, {section.title}", key=key)


def gain_values(section: Section, rows: Sequence[Row], *, key: str) -> Html:
    """pass@k minus that of the baseline with the ends of its band."""
    ks = sorted({metric for row in rows for metric in row.difference_curve}, key=lambda metric: metric.at)
    columns = [
        Column("arm", [row.arm for row in rows]),
        *(
            Column(
                f"k = {metric.at:g}", [stacked(row.difference_curve.get(metric), sign="+") for row in rows]
            )
            for metric in ks
        ),
    ]
    return data_table(columns, caption=f"pass@k minus the baseline's, {section.title}, points", key=key)


def _with_ends(row: Row, metric: Metric, ends: Mapping[Metric, tuple[float, float]]) -> Html | str:
    """A value above the ends of its band, where it has one."""
    if metric not in row.results:
        return NOTHING
    value = points(row.results[metric].value)
    if metric not in ends:
        return value
    low, high = ends[metric]
    return join(
        [value, tag("span", NO_INTERVAL if isnan(low) else f"[{points(low)}, {points(high)}]", class_="sub")]
    )


def question_values(section: Section, rows: Sequence[Row], questions: Sequence[str], *, key: str) -> Html:
    """Right samples per question and arm in points, the numbers of the heat map."""
    columns = [
        Column("question", questions),
        *(Column(row.arm, [points(row.by_question.get(question)) for question in questions]) for row in rows),
    ]
    return data_table(columns, caption=f"Right samples per question, {section.title}, points", key=key)


def training_values(curves: Sequence[Curve], *, caption: str, key: str) -> Html:
    """Where each training curve begins and ends, and how far it went."""
    columns = [
        Column("arm", [curve.arm for curve in curves]),
        Column("metric", [curve.metric for curve in curves], is_text=True),
        Column("seeds", [" ".join(map(str, curve.seeds)) for curve in curves]),
        Column("steps", [f"{curve.steps[-1]:.0f}" for curve in curves]),
        Column("first", [number(curve.mean[0], ".3f") for curve in curves]),
        Column("lowest", [number(min(curve.mean), ".3f") for curve in curves]),
        Column("highest", [number(max(curve.mean), ".3f") for curve in curves]),
        Column("last", [number(curve.mean[-1], ".3f") for curve in curves]),
        Column("last, over seeds", [_ends(curve) for curve in curves]),
    ]
    return data_table(columns, caption=caption, key=key)


def _ends(curve: Curve) -> str:
    return f"{number(curve.low[-1], '.3f')} to {number(curve.high[-1], '.3f')}, {curve.num_runs[-1]} runs"
