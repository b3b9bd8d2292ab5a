"""What the audit has to say about a published table. For the checks, the terminal and the files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from tokensweep_analysis.published.reader import Cell

_ZERO = 1e-6  # a number that rounding errors may have moved from 0
Key = TypeVar("Key", bound=Hashable)


class Rule(StrEnum):
    """What was checked."""

    grid = "grid"  # a value is a whole number of correct answers over questions x samples
    average = "average"  # a printed average is the mean of its cells
    contradiction = "contradiction"  # one number is printed once
    baseline = "baseline"  # a difference starts from a number that the table has


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A slip, or with ``is_slip`` False something that a reader should know and that may be right."""

    rule: Rule
    source: str  # the paper
    where: str  # model, arm, benchmark and metric
    lines: tuple[int, ...]  # of the file
    printed: str
    expected: str
    text: str
    is_slip: bool = True


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check found, how many numbers it could look at, and why not at the others."""

    findings: tuple[Finding, ...] = ()
    num_checked: int = 0
    skipped: tuple[tuple[str, int], ...] = ()  # reason and number of rows


def grouped(cells: Iterable[Cell], key: Callable[[Cell], Key]) -> dict[Key, list[Cell]]:
    """Cells by key, in the order of the file."""
    groups: dict[Key, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def in_order(counts: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """Reasons with their counts, the most frequent first."""
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def points(value: float) -> str:
    """A recomputed number with two decimals."""
    return f"{value:.2f}"


def one_decimal(value: float | None) -> str:
    """A number with one decimal, or with so many that a reader sees on which side of 0 it lies; None is -."""
    if value is None:
        return "-"
    short = f"{value:.1f}"
    return short if float(short) or abs(value) < _ZERO else f"{value:.1g}"
