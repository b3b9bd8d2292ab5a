"""Reads a table of published results: one row per printed number. For the audit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokensweep_analysis.published.benchmarks import Benchmark, benchmark
from tokensweep_analysis.published.rows import LINE, read_rows, refuse
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
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
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
    rows = read_rows(path, tuple(COLUMNS))
    cells, problems = [], []
    shares = _shares(rows)
    for row in rows:
        try:
            cells.append(_cell(row, shares))
        except ValueError as error:
            problems.append(f"line {row[LINE]}: {error}")
    refuse(path.name, [*problems, *_duplicates(rows)])
    return tuple(cells)


def _shares(rows: Sequence[dict[str, str]]) -> set[tuple[str, str, str]]:
    """Paper and metric of numbers that are shares: nothing says percent, and none is above 1."""
    top: dict[tuple[str, str, str], float] = {}
    for row in rows:
        key = row["arxiv_id"], row["paper"], row["metric"]
        if _NUMBER.fullmatch(row["value"]):
            top[key] = max(float(row["value"]), top.get(key, 0.0))
    return {key for key, most in top.items() if most <= 1 and "%" not in key[-1]}


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
        line=int(row[LINE]),
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
        raise ValueError(f"column k must be a whole number from 1, or empty; got {text!r}: correct it")
    return int(float(text))


def _printed(text: str, *, column: str, metric: PrintedMetric, share: bool) -> Printed:
    plain = text.removesuffix("%").strip()
    if not _NUMBER.fullmatch(plain):
        raise ValueError(
            f"column {column} must be a number such as 33.3, got {text!r}: {_instead(text, column)}"
        )
    value = float(plain)
    scale = 100 if share else 1
    top = 100 if metric.is_accuracy else float("inf")
    if not 0 <= value * scale <= top:
        limits = "between 0 and 100 (percent)" if metric.is_accuracy else "not negative"
        raise ValueError(f"column {column} must be {limits}, got {text!r}: compare it with the paper")
    decimals = len(plain.partition(".")[2]) if "e" not in plain.lower() else 0
    text = f"{value * scale:.{max(0, decimals - 2)}f}" if share else plain
    return Printed(points=value * scale, rounding=0.5 * 10.0**-decimals * scale, text=text)


def _instead(text: str, column: str) -> str:
    """What to do about a number that is none."""
    if re.fullmatch(r"[0-9]+,[0-9]+\s*%?", text):
        return "decimals come after a point"
    if text.lower().strip("-+") in (
        "",
        "nan",
        "inf",
        "infinity",
        "na",
        "n/a",
        "none",
        "null",
        "\u2013",
        "\u2014",
    ):
        return "leave the row out" if column == "value" else "leave it empty"
    return "remarks go into source_note"


def _duplicates(rows: Sequence[dict[str, str]]) -> list[str]:
    first: dict[tuple[str, ...], str] = {}
    problems = []
    for row in rows:
        line = first.setdefault(tuple(row[name] for name in COLUMNS), row[LINE])
        if line != row[LINE]:
            problems.append(f"line {row[LINE]}: the row must not repeat line {line}: delete one")
    return problems
