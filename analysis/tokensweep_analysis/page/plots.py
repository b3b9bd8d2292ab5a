"""The parts of a page that hold plots: panels, what they show in words, and their numbers in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tokensweep_analysis.contrasts import POOLED
from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.page import figures, tables
from tokensweep_analysis.page.curves import Curve
from tokensweep_analysis.page.figures import Dot
from tokensweep_analysis.page.markup import Html, join, tag
from tokensweep_analysis.page.numbers import percent
from tokensweep_analysis.page.selection import (
    MAX_PANELS,
    MEAN,
    Section,
    drawn_arms,
    left_out,
    pass_curve,
    sections,
)
from tokensweep_analysis.page.svg import Look, looks, swatch
from tokensweep_analysis.tables import Comparison, Row

_AXES = {
    "reward": "reward",
    "entropy/mean": "entropy, nats",
    "length/mean": "length, tokens",
    "loss/kept_fraction": "kept fraction of tokens",
}


@dataclass(frozen=True)
class Drawing:
    """What the plots of a page have in common."""

    comparison: Comparison
    sections: tuple[Section, ...]
    arms: tuple[str, ...]  # drawn, in the order of the sweep
    looks: dict[str, Look]
    bands: tuple[str, ...]  # arms whose spread is drawn

    @classmethod
    def of(cls, comparison: Comparison) -> Drawing:
        """Arms, their looks and the sections, each decided once."""
        arms = drawn_arms(comparison)
        return cls(
            comparison,
            tuple(sections(comparison)),
            arms,
            looks(arms, comparison.baseline),
            tuple(figures.banded(arms, comparison.baseline)),
        )

    def legend(self, arms: Iterable[str] | None = None) -> Html:
        """Marker, dashes and colour of every arm that is drawn."""
        named = set(self.arms if arms is None else arms)
        entries = [
            tag(
                "li",
                swatch(self.looks[arm]),
                tag("span", arm, " (baseline)" * (arm == self.comparison.baseline)),
            )
            for arm in self.arms
            if arm in named
        ]
        return tag("ul", *entries, class_="legend", aria_label="Arms")

    def shading(self) -> str:
        """A sentence on the arms whose spread is not drawn; empty when all are."""
        if len(self.bands) == len(self.arms):
            return ""
        return f"Shading is drawn for {', '.join(self.bands)} only, so that it stays legible. "


def pass_plots(drawing: Drawing) -> Html:
    """pass@k over k."""
    chosen = [s for s in drawing.sections if any(len(pass_curve(row)) > 1 for row in s.of(drawing.arms))]
    if not chosen:
        return _nothing("No evaluation has results for more than one k.")
    rows = [row for section in chosen for row in section.of(drawing.arms)]
    simultaneous = sum(bool(row.band) for row in rows)
    kinds = {
        0: "pointwise intervals: they do not hold for all k at once",
        len(rows): "simultaneous bands: they hold for all k at once",
    }
    kind = kinds.get(simultaneous, "simultaneous bands where there are some, pointwise intervals elsewhere")
    note = (
        f"pass@k is the chance that at least one of k samples is right. Shaded: "
        f"{percent(drawing.comparison.confidence)} {kind}. {drawing.shading()}{left_out(drawing.comparison)}"
    )
    return _part(
        drawing,
        note,
        _panels(
            chosen,
            lambda s, key: figures.pass_panel(
                s, s.of(drawing.arms), drawing.looks, bands=drawing.bands, key=f"pass{key}"
            ),
        ),
        [tables.curve_values(s, s.of(drawing.arms), key=f"pass-{place}") for place, s in enumerate(chosen)],
        legend=drawing.legend(row.arm for row in rows),
    )


def forest_plots(drawing: Drawing) -> Html:
    """Differences of the mean accuracy to the baseline."""
    comparison = drawing.comparison
    against = comparison.baseline
    found = {s: _differences(s, drawing) for s in drawing.sections}
    chosen = [s for s in drawing.sections if found[s]]
    if against is None or not chosen:
        return _nothing("No arm can be compared with a baseline yet.")
    note = (
        f"avg@n minus that of {against}, with {percent(comparison.confidence)} intervals that are not "
        "adjusted for the number of comparisons. A filled marker: the interval excludes 0. A difference "
        f"without a line has no interval. {left_out(comparison)}"
    )
    panels = _panels(
        chosen,
        lambda s, key: figures.forest_panel(
            s.title, found[s], drawing.looks, against=against, key=f"forest{key}"
        ),
    )
    return _part(drawing, note, panels, [], legend=None)


def _differences(section: Section, drawing: Drawing) -> list[tuple[str, Estimate]]:
    """Difference to the baseline per drawn arm: from the contrasts, else from the rows."""
    contrasts = {
        each.arm: each.estimate
        for each in drawing.comparison.contrasts
        if (each.setting, each.benchmark, each.metric) == (section.setting, section.benchmark, MEAN)
        and each.baseline == drawing.comparison.baseline
    }
    own = {row.arm: row.differences[MEAN] for row in section.rows if MEAN in row.differences}
    known = own | contrasts
    return sorted(
        ((arm, known[arm]) for arm in drawing.arms if arm in known), key=lambda pair: -pair[1].value
    )


def heat_maps(drawing: Drawing) -> Html:
    """Which questions which arms solve."""
    chosen = [s for s in drawing.sections if any(row.by_question for row in s.of(drawing.arms))]
    if not chosen:
        return _nothing("No question was answered by an arm yet.")
    order = {section: _by_difficulty(section.of(drawing.arms)) for section in chosen}
    note = (
        "Share of right samples, mean over runs. Questions are sorted by their mean over the drawn arms, "
        f"the hardest at the left. {left_out(drawing.comparison)}"
    )
    key = tag(
        "p", tag("span", "0 points"), tag("i", aria_hidden="true"), tag("span", "100 points"), class_="scale"
    )
    panels = _panels(
        chosen, lambda s, k: figures.heat_panel(s, _answered(s, drawing), order[s], key=f"heat{k}")
    )
    values = [
        tables.question_values(s, _answered(s, drawing), order[s], key=f"heat-{place}")
        for place, s in enumerate(chosen)
    ]
    return _part(drawing, note, panels, values, legend=key)


def _answered(section: Section, drawing: Drawing) -> list[Row]:
    return [row for row in section.of(drawing.arms) if row.by_question]


def _by_difficulty(rows: Sequence[Row]) -> list[str]:
    """Question ids, the lowest mean over the arms first, ties by id."""
    means: dict[str, list[float]] = {}
    for row in rows:
        for question, value in row.by_question.items():
            means.setdefault(question, []).append(value)
    return sorted(means, key=lambda question: (float(np.mean(means[question])), question))


def training_plots(drawing: Drawing, curves: Sequence[Curve]) -> Html:
    """Metrics over the training, a row of panels per setting."""
    drawn = [curve for curve in curves if curve.arm in drawing.looks]
    if not drawn:
        return _nothing("No training curves were given, or no run has written metrics yet.")
    panels: dict[tuple[str, str], list[Curve]] = {}
    for curve in drawn:
        panels.setdefault((curve.setting, curve.metric), []).append(curve)
    shown = list(panels.items())[: 2 * MAX_PANELS]
    windows = sorted({curve.window for curve in drawn if curve.window > 1})
    uneven = list(dict.fromkeys(c.arm for c in drawn if len(set(c.num_runs)) > 1))
    note = (
        "Line: the mean over training seeds. Shaded: from the smallest to the largest seed, no interval. "
        + (f"Each point is the mean of {windows[-1]} steps at most. " if windows else "")
        + (
            f"Runs of {', '.join(uneven)} differ in length: a mean is over those that reach its step. "
            * bool(uneven)
        )
        + drawing.shading()
        + _capped(len(panels), len(shown))
    )
    drawings = [
        figures.curve_panel(
            f"{setting}: {_AXES.get(metric, metric)}".removeprefix(": "),
            own,
            drawing.looks,
            axis=_AXES.get(metric, metric),
            bands=drawing.bands,
            key=f"train{place}",
        )
        for place, ((setting, metric), own) in enumerate(shown)
    ]
    settings = dict.fromkeys(curve.setting for curve in drawn)
    values = [
        tables.training_values(
            [c for c in drawn if c.setting == setting],
            caption=f"Training metrics, {setting}".removesuffix(", "),
            key=f"train-{place}",
        )
        for place, setting in enumerate(settings)
    ]
    panel = tag("div", *drawings, class_="panels")
    return _part(drawing, note, panel, values, legend=drawing.legend(curve.arm for curve in drawn))


def length_plots(drawing: Drawing, dots: Sequence[Dot]) -> Html:
    """Accuracy against length: whether an arm wins by writing more."""
    found = {section: _dots(section, dots, drawing) for section in drawing.sections}
    chosen = [section for section in drawing.sections if found[section]]
    if not chosen:
        return _nothing("No evaluation has lengths yet.")
    is_mean = any(dot.seed < 0 for own in found.values() for dot in own)
    note = (
        f"Each dot is {'an arm, the mean over its runs' if is_mean else 'one training run'}. An arm that "
        f"wins by writing more lies to the upper right. {left_out(drawing.comparison)}"
    )
    panels = _panels(
        chosen, lambda s, key: figures.length_panel(s, found[s], drawing.looks, key=f"length{key}")
    )
    arms = {dot.arm for own in found.values() for dot in own}
    return _part(drawing, note, panels, [], legend=drawing.legend(arms))


def _dots(section: Section, dots: Sequence[Dot], drawing: Drawing) -> list[Dot]:
    own = [
        d
        for d in dots
        if (d.setting, d.benchmark) == (section.setting, section.benchmark) and d.arm in drawing.looks
    ]
    return own if dots else figures.mean_dots(section, section.of(drawing.arms))


def _panels(chosen: Sequence[Section], draw: Callable[[Section, int], Html]) -> Html:
    """A panel per section, pooled ones first, and a word on those that are not drawn."""
    first = sorted(chosen, key=lambda section: section.benchmark != POOLED)[:MAX_PANELS]
    drawn = [draw(section, place) for place, section in enumerate(s for s in chosen if s in first)]
    more = _capped(len(chosen), len(drawn))
    return join([tag("div", *drawn, class_="panels"), *([tag("p", more, class_="note")] if more else [])])


def _capped(total: int, drawn: int) -> str:
    return f"{drawn} of {total} plots are drawn; the tables have all numbers. " if drawn < total else ""


def _part(drawing: Drawing, note: str, panels: Html, values: Sequence[Html], *, legend: Html | None) -> Html:
    """Note, legend, panels, and the numbers folded away."""
    numbers = [tag("details", tag("summary", "The numbers as tables"), *values)] if values else []
    return join(
        [tag("p", note.strip(), class_="note"), *([legend] if legend else []), panels, *numbers], "\n"
    )


def _nothing(sentence: str) -> Html:
    return tag("p", sentence, class_="note")
