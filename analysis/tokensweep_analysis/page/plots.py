"""The parts of a page that hold plots: panels, what they show in words, and their numbers in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tokensweep_analysis.claims import POOLED
from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.metrics import AVERAGE
from tokensweep_analysis.page import figures, values
from tokensweep_analysis.page.curves import Curve
from tokensweep_analysis.page.figures import Dot
from tokensweep_analysis.page.markup import Html, join, tag
from tokensweep_analysis.page.selection import (
    MAX_PANELS,
    Section,
    drawn_arms,
    left_out,
    pass_curve,
    sections,
)
from tokensweep_analysis.page.svg import Look, looks, swatch
from tokensweep_analysis.tables import Comparison, Row
from tokensweep_analysis.wording import percent

_MAX_CELLS = 60_000  # of the tables by question, about 1 MB
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
    found = [s for s in drawing.sections if any(len(pass_curve(row)) > 1 for row in s.of(drawing.arms))]
    chosen = _first(found)
    if not chosen:
        return _nothing("No evaluation has results for more than one k.")
    rows = [row for section in chosen for row in section.of(drawing.arms)]
    simultaneous = sum(bool(row.band) for row in rows)
    kinds = {
        0: "pointwise intervals, which do not hold for several k at once",
        len(rows): "simultaneous bands, which hold at all marked k at once",
    }
    kind = kinds.get(simultaneous, "simultaneous bands where there are some, pointwise intervals elsewhere")
    note = (
        f"pass@k is the chance that at least one of k samples is right. Shaded: "
        f"{percent(drawing.comparison.confidence)} {kind}. {drawing.shading()}{left_out(drawing.comparison)}"
        f" {_capped(len(found), len(chosen))}"
    )
    return _part(
        "pass@k",
        note,
        _panels(
            chosen,
            lambda s, key: figures.pass_panel(
                s, s.of(drawing.arms), drawing.looks, bands=drawing.bands, key=f"pass{key}"
            ),
        ),
        [values.curve_values(s, s.of(drawing.arms), key=f"pass-{place}") for place, s in enumerate(chosen)],
        legend=drawing.legend(row.arm for row in rows),
    )


def gain_plots(drawing: Drawing) -> Html:
    """pass@k minus that of the baseline over k: where curves cross."""
    comparison = drawing.comparison
    against = comparison.baseline
    own = {s: [row for row in s.of(drawing.arms) if len(row.difference_curve) > 1] for s in drawing.sections}
    found = [section for section in drawing.sections if own[section]]
    chosen = _first(found)
    if against is None or not chosen:
        return _nothing("No arm can be compared with a baseline at more than one k yet.")
    note = (
        f"pass@k minus that of {against}, on the same questions. Shaded: {percent(comparison.confidence)} "
        "simultaneous bands. Where a band leaves 0 at any k the curves differ; they cross for sure where it "
        "lies above 0 at one k and below it at another. Bands are not adjusted for the number of arms. "
        f"{drawing.shading()}{left_out(comparison)} {_capped(len(found), len(chosen))}"
    )
    panels = _panels(
        chosen,
        lambda s, key: figures.gain_panel(
            s, own[s], drawing.looks, against=against, bands=drawing.bands, key=f"gain{key}"
        ),
    )
    numbers = [values.gain_values(s, own[s], key=f"gain-{place}") for place, s in enumerate(chosen)]
    arms = {row.arm for section in chosen for row in own[section]}
    return _part("pass@k differences", note, panels, numbers, legend=drawing.legend(arms))


def forest_plots(drawing: Drawing) -> Html:
    """Differences of the mean accuracy to the baseline."""
    comparison = drawing.comparison
    against = comparison.baseline
    found = {s: _differences(s, drawing) for s in drawing.sections}
    some = [s for s in drawing.sections if found[s]]
    chosen = _first(some)
    if against is None or not chosen:
        return _nothing("No arm can be compared with a baseline yet.")
    note = (
        f"{AVERAGE} minus that of {against}, with {percent(comparison.confidence)} intervals that are not "
        "adjusted for the number of comparisons. A filled marker: the interval excludes 0. A difference "
        f"without a line has no interval. {left_out(comparison)} {_capped(len(some), len(chosen))}"
    )
    panels = _panels(
        chosen,
        lambda s, key: figures.forest_panel(
            s.title, found[s], drawing.looks, against=against, key=f"forest{key}"
        ),
    )
    return _part("differences", note, panels, [], legend=None)


def _differences(section: Section, drawing: Drawing) -> list[tuple[str, Estimate]]:
    """Difference to the baseline per drawn arm: from the contrasts, else from the rows."""
    contrasts = {
        each.arm: each.estimate
        for each in drawing.comparison.contrasts
        if (each.setting, each.benchmark, each.metric) == (section.setting, section.benchmark, AVERAGE)
        and each.baseline == drawing.comparison.baseline
    }
    own = {row.arm: row.differences[AVERAGE] for row in section.rows if AVERAGE in row.differences}
    known = own | contrasts
    return sorted(
        ((arm, known[arm]) for arm in drawing.arms if arm in known), key=lambda pair: -pair[1].value
    )


def heat_maps(drawing: Drawing) -> Html:
    """Which questions which arms solve."""
    found = [s for s in drawing.sections if _answered(s, drawing)]
    chosen = _first(found)
    if not chosen:
        return _nothing("There are no results by question.")
    order = {section: _by_difficulty(section.of(drawing.arms)) for section in chosen}
    note = (
        "Share of right samples, mean over runs. Questions are sorted by their mean over the drawn arms, "
        f"the hardest at the left. {left_out(drawing.comparison)} {_capped(len(found), len(chosen))}"
    )
    key = tag(
        "p", tag("span", "0 points"), tag("i", aria_hidden="true"), tag("span", "100 points"), class_="scale"
    )
    panels = _panels(
        chosen, lambda s, k: figures.heat_panel(s, _answered(s, drawing), order[s], key=f"heat{k}")
    )
    sizes = np.cumsum([len(order[s]) * len(_answered(s, drawing)) for s in chosen])
    listed = [s for s, size in zip(chosen, sizes, strict=True) if size <= _MAX_CELLS]
    if len(listed) < len(chosen):
        note += (
            f"The values of {', '.join(s.title for s in chosen if s not in listed)} would make it too large. "
        )
    numbers = [
        values.question_values(s, _answered(s, drawing), order[s], key=f"heat-{place}")
        for place, s in enumerate(listed)
    ]
    return _part("questions", note, panels, numbers, legend=key)


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
    settings = list(dict.fromkeys(curve.setting for curve in drawn))
    shown = settings[:MAX_PANELS]
    by_setting = [[curve for curve in drawn if curve.setting == setting] for setting in shown]
    panels = [_training_row(drawing, own, place) for place, own in enumerate(by_setting)]
    numbers = [
        values.training_values(
            own, caption=f"Training metrics {own[0].setting}".strip(), key=f"train-{place}"
        )
        for place, own in enumerate(by_setting)
    ]
    note = _training_note(drawing, drawn) + _capped(len(settings), len(shown))
    return _part("training", note, join(panels), numbers, legend=drawing.legend(c.arm for c in drawn))


def _training_row(drawing: Drawing, curves: Sequence[Curve], row: int) -> Html:
    """The panels of one setting, one per metric."""
    metrics = dict.fromkeys(curve.metric for curve in curves)
    names = {metric: _AXES.get(metric, metric) for metric in metrics}
    panels = [
        figures.curve_panel(
            f"{curves[0].setting}: {names[metric]}".removeprefix(": "),
            [curve for curve in curves if curve.metric == metric],
            drawing.looks,
            axis=names[metric],
            bands=drawing.bands,
            key=f"train{row}x{place}",
        )
        for place, metric in enumerate(metrics)
    ]
    return tag("div", *panels, class_="panels small")


def _training_note(drawing: Drawing, curves: Sequence[Curve]) -> str:
    """What lines and shading are, and which runs are shorter than others."""
    window = max(curve.window for curve in curves)
    uneven = list(dict.fromkeys(curve.arm for curve in curves if len(set(curve.num_runs)) > 1))
    note = "Line: the mean over training seeds. Shaded: from the smallest to the largest seed, no interval. "
    if window > 1:
        note += f"A point is the mean of up to {window} steps. "
    if uneven:
        note += f"Runs of {', '.join(uneven)} differ in length: a mean is over those that reach its step. "
    return note + drawing.shading()


def length_plots(drawing: Drawing, dots: Sequence[Dot]) -> Html:
    """Accuracy against length: whether an arm wins by writing more."""
    found = {section: _dots(section, dots, drawing) for section in drawing.sections}
    some = [section for section in drawing.sections if found[section]]
    chosen = _first(some)
    if not chosen:
        return _nothing("No evaluation has lengths yet.")
    is_mean = any(dot.seed < 0 for own in found.values() for dot in own)
    note = (
        f"Each dot is {'an arm, the mean over its runs' if is_mean else 'one training run'}. An arm that "
        f"wins by writing more lies to the upper right. {left_out(drawing.comparison)} "
        f"{_capped(len(some), len(chosen))}"
    )
    panels = _panels(
        chosen, lambda s, key: figures.length_panel(s, found[s], drawing.looks, key=f"length{key}")
    )
    arms = {dot.arm for own in found.values() for dot in own}
    return _part("length", note, panels, [], legend=drawing.legend(arms))


def _dots(section: Section, dots: Sequence[Dot], drawing: Drawing) -> list[Dot]:
    own = [
        d
        for d in dots
        if (d.setting, d.benchmark) == (section.setting, section.benchmark) and d.arm in drawing.looks
    ]
    return own if dots else figures.mean_dots(section, section.of(drawing.arms))


def _panels(chosen: Sequence[Section], draw: Callable[[Section, int], Html]) -> Html:
    """A panel per section."""
    return tag("div", *(draw(section, place) for place, section in enumerate(chosen)), class_="panels")


def _first(chosen: Sequence[Section]) -> list[Section]:
    """Those that are drawn: as many as a page takes, pooled ones before others."""
    kept = sorted(chosen, key=lambda section: section.benchmark != POOLED)[:MAX_PANELS]
    return [section for section in chosen if section in kept]


def _capped(total: int, drawn: int) -> str:
    """A sentence on plots that are not drawn; empty when all are."""
    return f"Drawn for {drawn} of {total}; the ranking tables have the others. " if drawn < total else ""


def _part(name: str, note: str, panels: Html, values: Sequence[Html], *, legend: Html | None) -> Html:
    """Note, legend, panels, and the numbers folded away under a ``name`` that says which they are."""
    numbers = [tag("details", tag("summary", f"The numbers as tables: {name}"), *values)] if values else []
    return join(
        [tag("p", note.strip(), class_="note"), *([legend] if legend else []), panels, *numbers], "\n"
    )


def _nothing(sentence: str) -> Html:
    return tag("p", sentence, class_="note")
