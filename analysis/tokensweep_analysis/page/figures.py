"""The plots of a page: a small panel per setting and benchmark, each with what it shows in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensweep_analysis.intervals import Estimate
from tokensweep_analysis.metrics import AVERAGE
from tokensweep_analysis.page.curves import Curve
from tokensweep_analysis.page.markup import Html, tag
from tokensweep_analysis.page.numbers import excludes_zero, written
from tokensweep_analysis.page.selection import Section, marked, pass_curve, spread
from tokensweep_analysis.page.svg import INK, PAGE, Look, panel, to_svg
from tokensweep_analysis.tables import Row
from tokensweep_analysis.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Looks = Mapping[str, Look]
_MAX_BANDS = 5  # more of them hide each other


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One training run in the plot of length against accuracy."""

    setting: str
    arm: str
    benchmark: str
    seed: int
    accuracy: float  # avg@n, a share
    length: float  # mean completion tokens of the evaluation


def figure(drawn: Html, *, caption: str, wide: bool = False) -> Html:
    """A plot with its caption."""
    words = tag("figcaption", caption)
    if wide:  # wider than a small screen: it scrolls, so the keyboard must reach it
        return tag("figure", drawn, words, class_="wide", tabindex=0, aria_label=caption)
    return tag("figure", drawn, words)


def banded(arms: Sequence[str], baseline: str | None) -> list[str]:
    """The arms whose spread is drawn: all where they are few, else the baseline and the first ones."""
    if len(arms) <= _MAX_BANDS:
        return list(arms)
    others = [arm for arm in arms if arm != baseline]
    return [baseline, *others[: _MAX_BANDS - 1]] if baseline in arms and baseline else others[:_MAX_BANDS]


def pass_panel(
    section: Section, rows: Sequence[Row], looks: Looks, *, bands: Sequence[str], key: str
) -> Html:
    """pass@k over k, shaded as :func:`spread` says."""
    with panel() as (canvas, axes):
        ks: set[int] = set()
        for row in rows:
            metrics, look = pass_curve(row), looks[row.arm]
            at = [int(metric.at) for metric in metrics]
            ks |= set(at)
            values = _points(row.results[m].value for m in metrics)
            axes.plot(at, values, **_line(look, marks=marked(metrics)))
            if row.arm in bands:
                ends = spread(row)
                low, high = (_points(end[side] for end in ends.values()) for side in (0, 1))
                axes.fill_between(
                    [int(m.at) for m in ends], low, high, color=look.colour, alpha=0.12, linewidth=0
                )
        _powers(axes, sorted(ks))
        axes.set(xlabel="k, samples drawn", ylabel="pass@k, points")
        return figure(
            to_svg(canvas, label=f"pass@k by k, {section.title}. {_pass_words(rows)}", prefix=key),
            caption=section.title,
        )


def _pass_words(rows: Sequence[Row]) -> str:
    """The first and last point of each curve."""
    parts = []
    for row in rows:
        metrics = pass_curve(row)
        if metrics:
            ends = " to ".join(
                f"{100 * row.results[m].value:.1f} at k = {m.at:g}" for m in (metrics[0], metrics[-1])
            )
            parts.append(f"{row.arm}: {ends}")
    return "; ".join(parts) + "."


def gain_panel(
    section: Section, rows: Sequence[Row], looks: Looks, *, against: str, bands: Sequence[str], key: str
) -> Html:
    """pass@k minus that of the baseline over k, shaded by the band that holds at all k."""
    with panel() as (canvas, axes):
        axes.axhline(0, color=INK, linewidth=1)
        ks: set[int] = set()
        for row in rows:
            look, curve = looks[row.arm], row.difference_curve
            at = [int(metric.at) for metric in curve]
            ks |= set(at)
            axes.plot(at, _points(e.value for e in curve.values()), **_line(look, marks=range(len(at))))
            if row.arm in bands:
                low, high = ([getattr(e, end) for e in curve.values()] for end in ("low", "high"))
                axes.fill_between(at, _points(low), _points(high), color=look.colour, alpha=0.12, linewidth=0)
        _powers(axes, sorted(ks))
        axes.set(xlabel="k, samples drawn", ylabel=f"points more than {_clipped(against)}")
        words = "; ".join(
            f"{row.arm}: "
            + ", ".join(f"{written(e, sign='+')} at k = {m.at:g}" for m, e in row.difference_curve.items())
            for row in rows
        )
        label = f"pass@k minus that of {against} by k, {section.title}, points. {words}."
        return figure(to_svg(canvas, label=label, prefix=key), caption=section.title)


def forest_panel(
    title: str, differences: Sequence[tuple[str, Estimate]], looks: Looks, *, against: str = "", key: str
) -> Html:
    """Differences to the baseline ``against`` with their intervals, filled where 0 lies outside.

    Without ``against`` they are effects.
    """
    with panel(4.4, 0.9 + 0.3 * len(differences)) as (canvas, axes):
        axes.axvline(0, color=INK, linewidth=1)
        for place, (arm, each) in enumerate(differences):
            look = looks[arm]
            if not isnan(each.low):
                axes.plot(_points((each.low, each.high)), [place, place], color=look.colour, linewidth=2)
            axes.plot(
                _points([each.value]),
                [place],
                color=look.colour,
                marker=look.marker,
                markersize=7,
                markerfacecolor=look.colour if excludes_zero(each) else PAGE,
                linestyle="none",
            )
        axes.set_yticks(range(len(differences)), [_clipped(arm) for arm, _ in differences])
        axes.set_ylim(len(differences) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(f"points more than {_clipped(against)}" if against else "effect, points")
        words = "; ".join(f"{arm} {written(each, sign='+')}" for arm, each in differences)
        label = f"{f'Differences to {against}' if against else 'Effects'}, {title}, points: {words}."
        return figure(to_svg(canvas, label=label, prefix=key), caption=title)


def heat_panel(section: Section, rows: Sequence[Row], questions: Sequence[str], *, key: str) -> Html:
    """Share of right samples per question and arm, questions from hard to easy."""
    values = np.array([[row.by_question.get(question, np.nan) for question in questions] for row in rows])
    with panel(12.0, 0.6 + 0.24 * len(rows)) as (canvas, axes):
        axes.imshow(100 * values, aspect="auto", interpolation="none", cmap="cividis", vmin=0, vmax=100)
        axes.grid(visible=False)
        axes.set_yticks(range(len(rows)), [_clipped(row.arm) for row in rows])
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"{counted(len(questions), 'question')}, from the hardest to the easiest")
        label = (
            f"Heat map of {counted(len(rows), 'arm')} by {counted(len(questions), 'question')}, "
            f"{section.title}: share of right samples from dark, none, to light, all. "
            "The table below it has the values."
        )
        drawn = to_svg(canvas, label=label, prefix=key)
    return figure(drawn, caption=section.title, wide=True)


def curve_panel(
    title: str, curves: Sequence[Curve], looks: Looks, *, axis: str, bands: Sequence[str], key: str
) -> Html:
    """A training metric over steps: the mean over seeds, shaded from the smallest to the largest."""
    with panel(3.6, 2.6) as (canvas, axes):
        for curve in curves:
            look = looks[curve.arm]
            axes.plot(
                curve.steps,
                curve.mean,
                **_line(look, marks=range(0, len(curve.steps), -(-len(curve.steps) // 4))),
            )
            if curve.arm in bands and len(curve.seeds) > 1:
                axes.fill_between(
                    curve.steps, curve.low, curve.high, color=look.colour, alpha=0.12, linewidth=0
                )
        axes.set(xlabel="training step", ylabel=axis)
        words = "; ".join(f"{c.arm}: {c.mean[0]:.3g} to {c.mean[-1]:.3g}" for c in curves)
        label = f"{axis} by training step, {title}; first to last point: {words}."
        return figure(to_svg(canvas, label=label, prefix=key), caption=title)


def length_panel(section: Section, dots: Sequence[Dot], looks: Looks, *, key: str) -> Html:
    """Accuracy over completion length, a dot per run."""
    with panel() as (canvas, axes):
        for dot in dots:
            look = looks[dot.arm]
            axes.plot(
                [dot.length],
                [100 * dot.accuracy],
                color=look.colour,
                marker=look.marker,
                markersize=7,
                markeredgecolor=PAGE,
                markeredgewidth=0.8,
                linestyle="none",
            )
        axes.set(xlabel="completion length, tokens", ylabel=f"{AVERAGE}, points")
        axes.margins(0.12)
        axes.locator_params(nbins=5)
        words = "; ".join(f"{dot.arm}: {dot.length:.0f} tokens, {100 * dot.accuracy:.1f}" for dot in dots)
        label = f"Accuracy by completion length, {section.title}: {words}."
        return figure(to_svg(canvas, label=label, prefix=key), caption=section.title)


def mean_dots(section: Section, rows: Sequence[Row]) -> list[Dot]:
    """A dot per arm, the mean of its runs; its seed is -1."""
    return [
        Dot(
            setting=section.setting,
            arm=row.arm,
            benchmark=section.benchmark,
            seed=-1,
            accuracy=row.results[AVERAGE].value,
            length=row.length_mean,
        )
        for row in rows
        if AVERAGE in row.results and row.length_mean is not None
    ]


def _points(shares: Iterable[float]) -> list[float]:
    """Shares as points out of 100."""
    return [100 * share for share in shares]


def _line(look: Look, *, marks: Sequence[int]) -> dict[str, Any]:
    """How a curve is drawn, with a marker at the places ``marks``."""
    return {"color": look.colour, "marker": look.marker, "linestyle": look.line, "markevery": list(marks)}


def _powers(axes: Axes, ks: Sequence[int]) -> None:
    """k on a scale on which doubling is a step."""
    axes.set_xscale("log", base=2)
    ticks = [k for k in ks if k.bit_count() == 1] or list(ks)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()


def _clipped(name: str, length: int = 24) -> str:
    """A name that leaves room for the plot; the tables have it in full."""
    return name if len(name) <= length else name[: length - 1] + "…"
