"""The findings as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from tokensweep_analysis.layout import Cell, Column, FittedTable
from tokensweep_analysis.tokens.columns import (
    OVERLAP_COLUMNS,
    PERCENTILE_COLUMNS,
    TOKEN_COLUMNS,
    Spec,
    cells,
    nats,
)
from tokensweep_analysis.tokens.findings import Findings, coarser

_TOKENS_SHOWN = 15
_BINS_SHOWN = 5
_STEPS_SHOWN = 12


def renderables(findings: Findings) -> Iterator[RenderableType]:
    """Headings and tables, in the order of reading."""
    tables = findings.tables
    yield _heading("Entropy in nats, of the policy that sampled")
    yield _table(_some_steps(tables["percentiles"]), PERCENTILE_COLUMNS)
    yield _heading(
        f"Tokens most often of high entropy ({min(_TOKENS_SHOWN, len(tables['top_tokens']))} "
        f"of {len(tables['top_tokens'])}); that is {findings.rule}"
    )
    yield _table(tables["top_tokens"].head(_TOKENS_SHOWN), TOKEN_COLUMNS)
    for suffix, where in (("", "each step's own rollouts"), ("_on_last", "the last step's rollouts")):
        if f"overlap{suffix}" in tables:
            yield _heading(f"Overlap with the base model's tokens of high entropy; {where}")
            yield _table(_some_steps(tables[f"overlap{suffix}"]), OVERLAP_COLUMNS)
            yield _heading(f"Entropy minus base entropy, in nats; {where}")
            yield _by_bin(_some_steps(coarser(tables[f"change{suffix}"], bins=_BINS_SHOWN)))
    yield _heading("Mean entropy (nats) by position in the completion")
    yield _by_place(_some_steps(tables["positions"]))


def _table(frame: pd.DataFrame, columns: Sequence[Spec]) -> RenderableType:
    if frame.empty:
        return Text("  none")
    rows = cells(frame, columns)
    return _fitted([name for name, _ in columns], rows)


def _fitted(names: Sequence[str], rows: Sequence[Sequence[str]]) -> FittedTable:
    by_column = zip(names, zip(*rows, strict=True), strict=True)
    return FittedTable(
        tuple(
            Column(Cell(tuple(name.split(" ", 1))), tuple(Cell((c,)) for c in own)) for name, own in by_column
        )
    )


def _by_bin(change: pd.DataFrame) -> RenderableType:
    """A row per percentile range, a column per step."""
    names = ["base percentile"]
    grid = change.pivot_table(index=["from", "to"], columns="step", values="change")
    names += [f"step {step:.0f}" for step in grid.columns]
    ranges = [f"{low:.0f} to {high:.0f} %" for low, high in grid.index]
    rows = [
        [label, *(f"{value:+.3f}" for value in row)]
        for label, row in zip(ranges, grid.to_numpy(), strict=True)
    ]
    return _fitted(names, rows)


def _by_place(positions: pd.DataFrame) -> RenderableType:
    """A row per range of positions, a column per step."""
    grid = positions.pivot_table(index=["from", "to"], columns="step", values="entropy")
    names = ["positions", *(f"step {step:.0f}" for step in grid.columns)]
    rows = [
        [
            f"{low:.0f} to {high - 1:.0f}" if high - low > 1 else f"{low:.0f}",
            *(nats(value) for value in row),
        ]
        for (low, high), row in zip(grid.index, grid.to_numpy(), strict=True)
    ]
    return _fitted(names, rows)


def _some_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of at most twelve steps, evenly spread, the first and the last among them, and of all together."""
    steps = sorted(frame["step"].dropna().unique())
    if len(steps) <= _STEPS_SHOWN:
        return frame
    places = {round(i * (len(steps) - 1) / (_STEPS_SHOWN - 1)) for i in range(_STEPS_SHOWN)}
    return frame[frame["step"].isin([steps[place] for place in places]) | frame["step"].isna()]


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")
