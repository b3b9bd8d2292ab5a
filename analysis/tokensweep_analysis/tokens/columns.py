"""The columns of tables that people read, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from tokensweep_analysis.tokens.measures import PERCENTILES
from tokensweep_analysis.tokens.shown import visible

Format = Callable[[Any], str]


def percent(value: float) -> str:
    """A share as 12.3 %, a dash for NaN."""
    return "-" if pd.isna(value) else f"{100 * value:.1f} %"


def nats(value: float) -> str:
    """Three digits after the point, a dash for NaN."""
    return "-" if pd.isna(value) else f"{value:.3f}"


def _step(value: Any) -> str:
    return "all" if pd.isna(value) else f"{value:.0f}"


def _interval(low: float, high: float) -> str:
    return "-" if pd.isna(low) or pd.isna(high) else f"{100 * low:.1f} to {100 * high:.1f} %"


def _count(value: Any) -> str:
    return f"{value:,.0f}"


Spec = tuple[str, Callable[["pd.Series[Any]"], str]]


def _of(name: str, form: Format) -> Callable[[pd.Series[Any]], str]:
    return lambda row: form(row[name])


PERCENTILE_COLUMNS: Sequence[Spec] = (
    ("step", _of("step", _step)),
    ("tokens", _of("tokens", _count)),
    ("mean", _of("mean", nats)),
    *((f"p{p}", _of(f"p{p}", nats)) for p in PERCENTILES),
    ("below 0.01", _of("below_0_01", percent)),
    ("on top 20 %", _of("top_20_share", percent)),
)
TOKEN_COLUMNS: Sequence[Spec] = (
    ("token", _of("token", visible)),
    ("high entropy", _of("above", _count)),
    ("of occurrences", _of("count", _count)),
    ("share", _of("above_share", percent)),
    ("mean entropy", _of("mean_entropy", nats)),
    ("base mean", _of("mean_base_entropy", nats)),
)
OVERLAP_COLUMNS: Sequence[Spec] = (
    ("step", _of("step", _step)),
    ("tokens", _of("tokens", _count)),
    ("high entropy", _of("top", _count)),
    ("overlap", _of("overlap", percent)),
    ("interval (95 %)", lambda row: _interval(row["overlap_low"], row["overlap_high"])),
    ("Jaccard", _of("jaccard", percent)),
    ("by chance", _of("chance", percent)),
)


def cells(frame: pd.DataFrame, columns: Sequence[Spec]) -> list[list[str]]:
    """The rows of a table as text, one list per row."""
    return [[form(row) for _, form in columns] for _, row in frame.iterrows()]
