"""Small published tables, written by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from tokensweep_analysis.published.reader import COLUMNS, Cell, read_published

Write = Callable[..., Path]
Read = Callable[..., tuple[Cell, ...]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A file with a row per dictionary; what a row leaves out is one arm's AIME24 in one paper."""

    def _write(*rows: dict[str, str], columns: tuple[str, ...] = tuple(COLUMNS)) -> Path:
        usual = dict.fromkeys(columns, "") | {
            "paper": "Paper",
            "base_model": "M-7B",
            "method": "GRPO",
            "benchmark": "AIME24",
            "metric": "pass@1 greedy (%)",
        }
        path = tmp_path / "table.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows({**usual, **row} for row in rows)
        return path

    return _write


@pytest.fixture
def read(write: Write) -> Read:
    """The cells of such a file."""

    def _read(*rows: dict[str, str]) -> tuple[Cell, ...]:
        return read_published(write(*rows))

    return _read
