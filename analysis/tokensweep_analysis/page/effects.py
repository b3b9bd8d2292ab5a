"""Main effects and interactions of a factorial sweep on its page: a plot and a table per setting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokensweep_analysis.contrasts import Contrast
from tokensweep_analysis.metrics import AVERAGE, Kind, Metric
from tokensweep_analysis.page import figures
from tokensweep_analysis.page.markup import Html, join, tag
from tokensweep_analysis.page.svg import looks
from tokensweep_analysis.page.tables import Column, data_table, differences, without_empty
from tokensweep_analysis.sections import shown_metrics
from tokensweep_analysis.tables import Comparison


def effects_part(comparison: Comparison) -> Html:
    """How to read the effects, then a plot and a table for each setting and benchmark."""
    parts = [tag("p", comparison.effects_note, class_="note")]
    places = list(dict.fromkeys((each.setting, each.benchmark) for each in comparison.effects))
    for number, place in enumerate(places):
        own = [each for each in comparison.effects if (each.setting, each.benchmark) == place]
        parts += _place(own, number=number, is_last=number == len(places) - 1)
    return join(parts)


def _place(own: Sequence[Contrast], *, number: int, is_last: bool) -> Iterator[Html]:
    """Plot and table of one setting and benchmark."""
    title = " ".join(dict.fromkeys(filter(None, (own[0].setting, own[0].benchmark))))
    kinds = looks(list(dict.fromkeys(each.baseline for each in own)), None)
    drawn = [each for each in own if each.metric == AVERAGE]
    yield figures.forest_panel(
        f"{title}, {AVERAGE}",
        [(each.arm, each.estimate) for each in drawn],
        {each.arm: kinds[each.baseline] for each in drawn},
        key=f"effects{number}",
    )
    shown = [m for m in shown_metrics(sorted({e.metric for e in own}, key=_order)) if m.kind is Kind.pass_at]
    rows = [each for each in own if each.metric in shown]
    yield data_table(
        without_empty([Column("effect", [each.arm for each in rows]), *differences(rows)]),
        caption=f"{title}, effects in points",
        key=f"effects-table-{number}",
        is_sortable=True,
        is_explained=is_last,
    )


def _order(metric: Metric) -> tuple[str, float]:
    return metric.kind, metric.at
