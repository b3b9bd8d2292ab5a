"""The plots of a search: values by trial, parameters side by side, objectives against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensweep.search.space import Parameter, Value
from tokensweep_analysis.page.figures import figure
from tokensweep_analysis.page.markup import Html
from tokensweep_analysis.page.svg import INK, MUTED, PAGE, Look, panel, to_svg
from tokensweep_analysis.search.ranking import running_best
from tokensweep_analysis.search.stored import Goal, State, Trial
from tokensweep_analysis.search.summary import Summary
from tokensweep_analysis.search.wording import Unit, plain, written
from tokensweep_analysis.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_MARKED = 5  # trials with a look of their own
MOST_FAINT = 300  # lines behind them, of complete and of pruned trials each
_ABSENT = -0.14  # height of what a trial does not have, below the axes from 0 to 1
_LETTERS = 14  # of a tick or a name; the tables have them in full


def history_panel(summary: Summary, place: int, *, key: str) -> Html:
    """The values of one objective by number of the trial, and the best up to each."""
    goal, unit = summary.study.goals[place], summary.units[place]
    trials = summary.study.complete
    numbers = [each.number for each in trials]
    values = [_value(each, place) for each in trials]
    best = running_best(values, goal)
    pruned = [each.number for each in summary.trials(State.pruned)]
    with panel(6.4, 3.2) as (canvas, axes):
        axes.plot(
            numbers, _scaled(values, unit), color="#0072b2", marker="o", linestyle="none", markersize=4.5
        )
        last = max((each.number for each in summary.study.trials), default=0)
        axes.plot(
            [*numbers, last],
            _scaled([*best, best[-1]], unit),
            color=INK,
            drawstyle="steps-post",
            linewidth=1.4,
        )
        if pruned:
            axes.plot(
                pruned,
                [0.03] * len(pruned),
                color=MUTED,
                marker="x",
                linestyle="none",
                transform=axes.get_xaxis_transform(),
                alpha=0.7,
            )
        axes.set(xlabel="trial", ylabel=unit.label)
        axes.locator_params(axis="x", integer=True, nbins=8)
        rises = [
            f"{unit.shown(value)} at trial {number}"
            for number, value, before in zip(numbers, best, [nan, *best], strict=False)
            if value != before
        ]
        label = (
            f"{goal.name} by number of the trial, {counted(len(trials), 'complete trial')}, "
            f"{counted(len(pruned), 'pruned trial')}. Best so far: {', '.join(rises)}."
        )
        return figure(to_svg(canvas, label=label, prefix=key), caption=f"{unit.label} by trial")


def front_panel(summary: Summary, first: int, second: int, looks: Mapping[int, Look], *, key: str) -> Html:
    """Two objectives against each other, the front as a line."""
    units = summary.units[first], summary.units[second]
    trials = summary.study.complete
    on_front = sorted(
        (each for each in trials if each.number in summary.front), key=lambda each: _value(each, second)
    )
    with panel(5.2, 3.6) as (canvas, axes):
        behind = [each for each in trials if each.number not in summary.front]
        axes.plot(
            *_across(behind, first, second, units), color=MUTED, marker="o", linestyle="none", alpha=0.5
        )
        if len(summary.study.goals) == 2:
            # Who has one of the front has anything that is worse in x with it, up to the next one.
            steps = "steps-post" if summary.study.goals[second].sign < 0 else "steps-pre"
            axes.plot(*_across(on_front, first, second, units), color=INK, linewidth=1.2, drawstyle=steps)
        for each in on_front:
            look = looks.get(each.number, Look(INK, "o", (None, None)))
            axes.plot(
                *_across([each], first, second, units),
                color=look.colour,
                marker=look.marker,
                markersize=7.5,
                markeredgecolor=PAGE,
                markeredgewidth=0.8,
                linestyle="none",
            )
        axes.set(xlabel=units[1].label, ylabel=units[0].label)
        axes.margins(0.08)
        axes.locator_params(axis="x", nbins=6)
        points = "; ".join(
            f"{each.arm}: {units[0].shown(_value(each, first))} and {units[1].shown(_value(each, second))}"
            for each in on_front[:20]
        )
        label = (
            f"{units[0].label} against {units[1].label}, {counted(len(trials), 'complete trial')}; "
            f"the front, {counted(len(on_front), 'trial')}: {points}."
        )
        return figure(
            to_svg(canvas, label=label, prefix=key), caption=f"{units[0].label} against {units[1].label}"
        )


def _across(
    trials: Sequence[Trial], first: int, second: int, units: tuple[Unit, Unit]
) -> tuple[list[float], list[float]]:
    """x and y: the second and the first objective."""
    return (
        _scaled([_value(each, second) for each in trials], units[1]),
        _scaled([_value(each, first) for each in trials], units[0]),
    )


@dataclass(frozen=True)
class _Axis:
    """One upright axis: where a value stands on it, from 0 to 1, and what is written beside it."""

    name: str
    ticks: tuple[tuple[float, str], ...]
    places: Mapping[int, float]  # by number of the trial


def parallel_panel(summary: Summary, looks: Mapping[int, Look], *, key: str) -> Html:
    """A line per trial over an axis per parameter and objective; pruned ones end before the objectives."""
    pruned = list(summary.trials(State.pruned))[-MOST_FAINT:]
    others = [each for each in summary.ranked if each.number not in looks][:MOST_FAINT]
    best = [each for each in summary.ranked if each.number in looks]
    shown = [*best, *others, *pruned]
    axes_of = [_parameter_axis(one, summary.names[one.key], shown) for one in summary.study.space.parameters]
    axes_of += [
        _goal_axis(at, goal, unit, [*best, *others])
        for at, (goal, unit) in enumerate(zip(summary.study.goals, summary.units, strict=True))
    ]
    num_own = len(summary.study.space.parameters)
    with panel(max(10.0, 1.5 * len(axes_of)), 3.6) as (canvas, axes):
        _bundle(axes, axes_of[:num_own], pruned, linestyle=(0, (2.0, 2.0)), alpha=0.35)
        _bundle(axes, axes_of, others, linestyle="-", alpha=0.35)
        for each in reversed(best):
            look = looks[each.number]
            heights = [one.places[each.number] for one in axes_of]
            axes.plot(
                range(len(heights)), heights, color=look.colour, marker=look.marker, linestyle=look.line
            )
        _rulers(axes, axes_of)
        words = "; ".join(_words(each, summary) for each in best)
        label = (
            f"Parallel coordinates of {counted(len(axes_of) - len(summary.units), 'parameter')} and "
            f"{', '.join(goal.name for goal in summary.study.goals)}, "
            f"{counted(len(best) + len(others), 'complete trial')}, {counted(len(pruned), 'pruned trial')}. "
            f"The best: {words or 'none yet'}."
        )
        return figure(
            to_svg(canvas, label=label, prefix=key), caption="Parameters and what they led to", wide=True
        )


def _bundle(axes: Axes, rulers: Sequence[_Axis], trials: Sequence[Trial], **look: Any) -> None:
    """Faint lines, all in one path: a thousand of them apart would fill the page."""
    if not rulers or not trials:
        return
    xs = [*map(float, range(len(rulers))), nan]
    heights = [height for each in trials for height in (*(one.places[each.number] for one in rulers), nan)]
    axes.plot(xs * len(trials), heights, color=MUTED, linewidth=0.9, **look)


def _rulers(axes: Axes, rulers: Sequence[_Axis]) -> None:
    """The upright axes with their ticks, above the lines."""
    has_absent = any(place == _ABSENT for one in rulers for place in one.places.values())
    for at, one in enumerate(rulers):
        axes.plot([at, at], [0, 1], color=INK, linewidth=0.9)
        for height, name in one.ticks:
            axes.annotate(
                _clipped(name),
                (at, height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                bbox={"facecolor": PAGE, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            )
    axes.set_xticks(range(len(rulers)), [_clipped(one.name) for one in rulers])
    axes.set_xlim(-0.15, len(rulers) - 0.3)
    axes.set_ylim(_ABSENT - 0.06 if has_absent else -0.05, 1.06)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _parameter_axis(one: Parameter, name: str, trials: Sequence[Trial]) -> _Axis:
    own = {each.number: each.params[one.key] for each in trials if one.key in each.params}
    places = {number: height_of(one, value) for number, value in own.items()}
    absent = [(_ABSENT, "not used")] if len(own) < len(trials) else []
    return _Axis(
        f"{name} (log)" if one.log else name,
        (*ticks_of(one), *absent),
        {each.number: places.get(each.number, _ABSENT) for each in trials},
    )


def height_of(one: Parameter, value: Value) -> float:
    """Where a value of a parameter stands, from 0 to 1; choices stand evenly, the first at the bottom."""
    if one.choices:
        at = next(
            place
            for place, choice in enumerate(one.choices)
            if (type(choice), choice) == (type(value), value)
        )
        return at / (len(one.choices) - 1) if len(one.choices) > 1 else 0.5
    assert isinstance(value, (int, float))
    assert one.low is not None
    assert one.high is not None
    low, high, here = (log10(end) if one.log else float(end) for end in (one.low, one.high, value))
    return (here - low) / (high - low)


def ticks_of(one: Parameter) -> list[tuple[float, str]]:
    """What stands beside a parameter's axis: all choices, or both ends and round numbers between."""
    if one.choices:
        return [(height_of(one, choice), written(choice)) for choice in one.choices]
    assert one.low is not None
    assert one.high is not None
    inner: list[float]
    if one.log:
        powers = range(ceil(log10(one.low)), floor(log10(one.high)) + 1)
        inner = [10.0**power for power in powers]
    else:
        middle = (one.low + one.high) / 2
        inner = [float(round(middle)) if one.integer else middle]
    between = [value for value in inner if 0.1 < height_of(one, value) < 0.9]
    numbers = [one.low, *between[:: max(1, ceil(len(between) / 4))], one.high]
    return [(height_of(one, value), f"{value:.4g}") for value in numbers]


def _goal_axis(at: int, goal: Goal, unit: Unit, trials: Sequence[Trial]) -> _Axis:
    values = {each.number: _value(each, at) for each in trials}
    low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
    if high == low:
        return _Axis(
            goal.name.replace("_", " "),
            ((0.5, unit.shown(low)),) if values else (),
            dict.fromkeys(values, 0.5),
        )
    return _Axis(
        goal.name.replace("_", " "),
        tuple((part, unit.shown(low + part * (high - low))) for part in (0.0, 0.5, 1.0)),
        {number: (value - low) / (high - low) for number, value in values.items()},
    )


def importance_panel(summary: Summary, *, key: str) -> Html:
    """A bar per parameter, the most important at the top."""
    shares = summary.importance.shares
    names = [summary.names[each] for each in shares]
    with panel(5.2, 0.9 + 0.3 * len(shares)) as (canvas, axes):
        axes.barh(range(len(shares)), [100 * share for share in shares.values()], color="#0072b2", height=0.6)
        axes.set_yticks(range(len(shares)), [_clipped(name, 24) for name in names])
        axes.set_ylim(len(shares) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("importance, %")
        words = "; ".join(f"{n} {100 * share:.1f} %" for n, share in zip(names, shares.values(), strict=True))
        label = f"Importance of {counted(len(shares), 'parameter')}: {words}."
        return figure(to_svg(canvas, label=label, prefix=key), caption="Importance of parameters")


def _words(trial: Trial, summary: Summary) -> str:
    """A trial's parameters and values."""
    params = ", ".join(f"{summary.names[key]} {written(value)}" for key, value in trial.params.items())
    values = ", ".join(
        f"{goal.name} {unit.shown(_value(trial, at))}"
        for at, (goal, unit) in enumerate(zip(summary.study.goals, summary.units, strict=True))
    )
    return f"{trial.arm}: {params}, {values}"


def _value(trial: Trial, place: int) -> float:
    assert trial.values is not None, "a complete trial has values"
    return trial.values[place]


def _scaled(values: Sequence[float], unit: Unit) -> list[float]:
    scaled: list[float] = (unit.scale * np.array(values, dtype=np.float64)).tolist()
    return scaled


def _clipped(name: str, length: int = _LETTERS) -> str:
    """A name in one line that leaves room for the plot."""
    shown = plain(name)
    return shown if len(shown) <= length else shown[: length - 1] + "…"
