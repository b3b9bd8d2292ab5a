"""Plots of the findings as SVG, told apart by marker and line as well as by colour."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tokensweep_analysis.tokens.findings import Findings
from tokensweep_analysis.tokens.measures import PERCENTILES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")  # Okabe and Ito: colour-blind safe
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v")
_MOST_LINES = len(_COLOURS)
_HISTOGRAM_BINS = 40
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: small, and it can be searched and read out
    "svg.hashsalt": "tokensweep",  # ids do not change between calls
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot as SVG with what somebody who does not see it has to know."""

    name: str  # of its file
    title: str
    alt: str
    svg: str


def plots(findings: Findings) -> Iterator[Plot]:
    """Distribution, percentiles over training, overlap and change where there is a base, and position."""
    tables = findings.tables
    yield _distribution(findings)
    yield _percentiles(tables["percentiles"])
    for suffix, where in (("", "rollouts of each step"), ("_on_last", "rollouts of the last step")):
        if f"overlap{suffix}" in tables:
            yield _overlap(tables[f"overlap{suffix}"], name=f"overlap{suffix}", where=where)
            yield _change(tables[f"change{suffix}"], name=f"change{suffix}", where=where)
    yield _positions(tables["positions"])


def _distribution(findings: Findings) -> Plot:
    tokens = findings.tokens
    steps = sorted(tokens["step"].unique())
    edges = np.linspace(0, float(tokens["entropy"].max()) or 1.0, _HISTOGRAM_BINS + 1)
    lines = [
        (f"step {step}", tokens.loc[tokens["step"] == step, "entropy"])
        for step in dict.fromkeys((steps[0], steps[-1]))
    ]
    if findings.has_base:
        last = tokens.loc[tokens["step"] == steps[-1], "base_entropy"]
        lines.append((f"base model on step {steps[-1]}", last.clip(upper=edges[-1])))

    def draw(axes: Axes) -> None:
        for number, (label, values) in enumerate(lines):
            shares = np.histogram(values, bins=edges)[0] / len(values)
            axes.stairs(np.where(shares > 0, shares, np.nan), edges, label=label, **_line(number))
        axes.set(xlabel="entropy (nats)", ylabel="share of tokens", yscale="log")

    median = tokens["entropy"].median()
    return _plot(
        draw,
        name="distribution",
        title="Distribution of token entropy",
        alt=f"Histogram on a log scale; half of all tokens have at most {median:.3f} nats, the highest has "
        f"{tokens['entropy'].max():.2f}.",
    )


def _percentiles(table: pd.DataFrame) -> Plot:
    rows = table.dropna(subset="step")

    def draw(axes: Axes) -> None:
        for number, p in enumerate(PERCENTILES):
            axes.plot(
                rows["step"].astype(int), rows[f"p{p}"], label=f"{p} %", **_line(number), **_mark(number)
            )
        axes.set(xlabel="step", ylabel="entropy (nats)")

    first, last = rows["p80"].iloc[0], rows["p80"].iloc[-1]
    return _plot(
        draw,
        name="percentiles",
        title="Percentiles of entropy over training",
        alt=f"The 80th percentile goes from {first:.3f} to {last:.3f} nats.",
    )


def _overlap(table: pd.DataFrame, *, name: str, where: str) -> Plot:
    steps, value = table["step"].to_numpy(int), 100 * table["overlap"].to_numpy(float)

    def draw(axes: Axes) -> None:
        low, high = (100 * table[f"overlap_{end}"].to_numpy(float) for end in ("low", "high"))
        axes.fill_between(steps, low, high, color=_COLOURS[0], alpha=0.2, linewidth=0, label="95 % interval")
        axes.plot(steps, value, label="overlap", **_line(0), **_mark(0))
        axes.plot(steps, 100 * table["chance"], label="by chance", **_line(1), **_mark(1))
        axes.set(xlabel="step", ylabel="overlap with the base model (%)", ylim=(0, 104))

    return _plot(
        draw,
        name=name,
        title=f"Overlap of tokens of high entropy with the base model's, on {where}",
        alt=f"Overlap of {value[0]:.1f} % at step {steps[0]} and {value[-1]:.1f} % at step {steps[-1]}; "
        f"chance is {100 * table['chance'].iloc[-1]:.1f} %.",
    )


def _change(table: pd.DataFrame, *, name: str, where: str) -> Plot:
    shown = _spread(sorted(table["step"].unique()))

    def draw(axes: Axes) -> None:
        axes.axhline(0, color="#767676", linewidth=0.8)
        for number, step in enumerate(shown):
            part = table[table["step"] == step]
            middle = (part["from"] + part["to"]) / 2
            axes.plot(middle, part["change"], label=f"step {step}", **_line(number), **_mark(number))
        axes.set(xlabel="percentile of base entropy", ylabel="change (nats)")

    last = table[table["step"] == shown[-1]]
    return _plot(
        draw,
        name=name,
        title=f"Entropy minus base entropy by percentile of base entropy, on {where}",
        alt=f"At step {shown[-1]} entropy changed by {last['change'].iloc[0]:+.3f} nats on the tokens of "
        f"lowest base entropy and by {last['change'].iloc[-1]:+.3f} on those of highest.",
    )


def _positions(table: pd.DataFrame) -> Plot:
    shown = _spread(sorted(table["step"].unique()))

    def draw(axes: Axes) -> None:
        for number, step in enumerate(shown):
            part = table[table["step"] == step]
            middle = (part["from"] + part["to"] - 1) / 2
            axes.plot(middle, part["entropy"], label=f"step {step}", **_line(number), **_mark(number))
        axes.set(xlabel="position in the completion (tokens)", ylabel="mean entropy (nats)")

    last = table[table["step"] == shown[-1]]
    highest = last.iloc[int(last["entropy"].to_numpy().argmax())]
    return _plot(
        draw,
        name="positions",
        title="Mean entropy by position",
        alt=f"At step {shown[-1]} it is highest, {highest['entropy']:.3f} nats, around position "
        f"{highest['from']:.0f}.",
    )


def _spread(steps: Sequence[int]) -> list[int]:
    """At most as many steps as there are colours, evenly spread, with the first and the last."""
    if len(steps) <= _MOST_LINES:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (_MOST_LINES - 1))] for i in range(_MOST_LINES)]


def _line(number: int) -> dict[str, Any]:
    return {"color": _COLOURS[number], "linestyle": _LINES[number]}


def _mark(number: int) -> dict[str, Any]:
    return {"marker": _MARKERS[number], "markersize": 4}


def _plot(draw: Any, *, name: str, title: str, alt: str) -> Plot:
    from matplotlib import rc_context  # slow to import
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.legend(frameon=False)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(name=name, title=title, alt=alt, svg=content.getvalue())
