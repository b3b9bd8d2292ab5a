"""Reads a table of published results: one row per printed number. For the audit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import pandas as pd

from tokensweep_analysis.published.benchmarks import Benchmark, benchmark
from tokensweep_analysis.published.spelling import PrintedMetric, printed_metric

COLUMNS = {
    "arxiv_id": "number of the paper, such as 2401.00001; may be empty",
    "paper": "its name; rows with the same arxiv_id and paper are one table",
    "base_model": "what was trained; arms are compared within one base model",
    "method": "name of the method",
    "variant": "what else tells the arm from others; may be empty",
    "benchmark": "such as AIME24 or MATH500; 'mean of 5' or 'Avg.' for a printed average",
    "metric": "such as avg@16, pass@1 greedy, pass@8; add (%) for percent",
    "k": "k of pass@k, or samples per question; may be empty",
    "value": "the number as it is printed, with its decimals",
    "baseline_value": "the number that the paper compares it with; may be empty",
    "source_note": "where it stands and how it was measured, in own words; may be empty",
}
_NEEDED = ("paper", "base_model", "method", "benchmark", "metric", "value")
_MOST_SHOWN = 5  # problems of a file in one message
_PRINTED_IN = re.compile(
    r"\s*[(\[][^()\[\]]*\b(?:printed|tables?|tab\.|figures?|fig\.|section|appendix|abstract|text)\b[^()\[\]]*[)\]]",
    re.IGNORECASE,
)
_SEEDS = re.compile(r"\b(\d+)\s+(?:independent\s+)?training\s+(?:seeds|runs)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A printed number in points, with half a unit of its last decimal as what rounding may hide."""

    points: float  # percent; of a length, tokens
    rounding: float
    text: str  # as it stands in the file, a share in points

    def is_near(self, other: float, slack: float = 0.0) -> bool:
        """Whether ``other`` rounds to this number, give or take ``slack``."""
        return abs(self.points - other) <= self.rounding + slack + 1e-9


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the file."""

    line: int
    arxiv_id: str
    paper: str
    base_model: str
    method: str
    variant: str
    benchmark_text: str
    benchmark: Benchmark
    metric_text: str
    metric: PrintedMetric
    k: int | None
    value: Printed
    baseline: Printed | None
    num_seeds: int  # training runs per arm that the row states, else 1
    note: str

    @property
    def source(self) -> str:
        """The paper as findings name it."""
        return f"{self.paper} ({self.arxiv_id})" if self.arxiv_id else self.paper

    @property
    def arm(self) -> str:
        """Method and variant as they stand in the file."""
        return ", ".join(filter(None, (self.method, self.variant)))

    @property
    def same_arm(self) -> str:
        """The arm without remarks such as ``(Table 1)`` on where the number is printed."""
        return ", ".join(
            filter(None, (_PRINTED_IN.sub("", part).strip() for part in (self.method, self.variant)))
        )


def read_published(path: Path) -> tuple[Cell, ...]:
    """The rows of a CSV file with the columns of :data:`COLUMNS`; other columns are not read.

    Raises ValueError naming file, line and column for a file that is no such table.
    """
    frame = _frame(path)
    cells, problems = [], []
    shares = _shares(frame)
    for place, row in enumerate(frame.to_dict("records")):
        try:
            cells.append(_cell({str(name): str(text) for name, text in row.items()}, shares))
        except ValueError as error:
            problems.append(f"line {frame['line'].iloc[place]}: {error}")
    problems += _duplicates(frame)
    if problems:
        more = [f"and {len(problems) - _MOST_SHOWN} more"] if len(problems) > _MOST_SHOWN else []
        raise ValueError("\n".join([f"{path.name} cannot be read:", *problems[:_MOST_SHOWN], *more]))
    return tuple(cells)


def _frame(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path.name} must be a CSV file in UTF-8, got: {' '.join(str(error).split())}: correct it"
        ) from error
    frame = frame.fillna("").map(str.strip)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{path.name} line 1 must name the columns {', '.join(COLUMNS)}; "
            f"missing: {', '.join(missing)}; got {', '.join(frame.columns)}: add them, empty where unknown"
        )
    frame = frame[list(COLUMNS)]
    if not (frame != "").any(axis=None):
        raise ValueError(f"{path.name} must have a row per printed number, got none: add rows")
    breaks = frame.apply(lambda column: column.str.count("\n")).sum(axis=1)
    frame.insert(0, "line", (breaks.cumsum().shift(fill_value=0) + frame.index + 2).astype(str))
    return frame[(frame[list(COLUMNS)] != "").any(axis=1)]


def _shares(frame: pd.DataFrame) -> set[tuple[str, str, str]]:
    """Paper and metric of numbers that are shares: nothing says percent, and none is above 1."""
    values = pd.to_numeric(frame["value"], errors="coerce")
    top = values.groupby([frame["arxiv_id"], frame["paper"], frame["metric"]]).max()
    return {key for key, most in top.items() if most <= 1 and "%" not in str(key[-1])}  # type: ignore[index,misc]


def _cell(row: dict[str, str], shares: set[tuple[str, str, str]]) -> Cell:
    for name in _NEEDED:
        if not row[name]:
            raise ValueError(f"column {name} must not be empty: {COLUMNS[name]}")
    k = _count(row["k"])
    metric = printed_metric(row["metric"], k)
    share = metric.is_accuracy and (row["arxiv_id"], row["paper"], row["metric"]) in shares
    value = _printed(row["value"], column="value", metric=metric, share=share)
    baseline = None
    if row["baseline_value"]:
        baseline = _printed(row["baseline_value"], column="baseline_value", metric=metric, share=share)
    seeds = _SEEDS.search(" ".join((row["variant"], row["metric"], row["source_note"])))
    return Cell(
        line=int(row["line"]),
        arxiv_id=row["arxiv_id"],
        paper=row["paper"],
        base_model=row["base_model"],
        method=row["method"],
        variant=row["variant"],
        benchmark_text=row["benchmark"],
        benchmark=benchmark(row["benchmark"]),
        metric_text=row["metric"],
        metric=metric,
        k=k,
        value=value,
        baseline=baseline,
        num_seeds=max(1, int(seeds.group(1))) if seeds else 1,
        note=row["source_note"],
    )


def _count(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d+(?:\.0*)?", text) or float(text) < 1:
        raise ValueError(f"column k must be a whole number from 1, or empty; got {text!r}")
    return int(float(text))


def _printed(text: str, *, column: str, metric: PrintedMetric, share: bool) -> Printed:
    plain = text.removesuffix("%").strip()
    try:
        value = float(plain)
    except ValueError:
        raise ValueError(
            f"column {column} must be a number such as 33.3, got {text!r}: remarks go into source_note"
        ) from None
    scale = 100 if share else 1
    top = 100 if metric.is_accuracy else float("inf")
    if not isfinite(value) or not 0 <= value * scale <= top:
        limits = "between 0 and 100 (percent)" if metric.is_accuracy else "not negative"
        raise ValueError(f"column {column} must be {limits}, got {text!r}: compare it with the paper")
    decimals = len(plain.partition(".")[2]) if "e" not in plain.lower() else 0
    text = f"{value * scale:.{max(0, decimals - 2)}f}" if share else plain
    return Printed(points=value * scale, rounding=0.5 * 10.0**-decimals * scale, text=text)


def _duplicates(frame: pd.DataFrame) -> Sequence[str]:
    columns = list(COLUMNS)
    again = frame[frame.duplicated(columns)]
    first = frame.drop_duplicates(columns).set_index(columns)["line"]
    return [
        f"line {row['line']}: the row must not repeat line {first.loc[tuple(row[columns])]}: delete one"
        for _, row in again.iterrows()
    ]
